"""The decoder-only language model."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from effllm import weights
from effllm.nn.block import Block, Period
from effllm.nn.init import FanIn, Initializer, Normal
from effllm.nn.linear import Linear, parameter
from effllm.nn.norm import Norm, RMSNorm
from effllm.nn.rebuild import rebuild
from effllm.nn.resample import Resample
from effllm.shard import shard

REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class DecoderState(struct.PyTreeNode):
    """What decoding carries: tokens seen by each row, and the mixers' states with a leading layer axis."""

    length_b: jax.Array
    blocks: tuple[Any, ...]


class Embedding(nn.Module):
    """A row of E (vocab_size, width) for each token; `attend` multiplies by Eᵀ, the tied head (Press & Wolf 2017, arXiv 1608.05859)."""

    vocab_size: int
    width: int
    init: Initializer

    def setup(self):
        self.table_vd = parameter(self, "embedding", self.init, (self.vocab_size, self.width), ("vocab", "width"))

    def __call__(self, tokens_bt, dtype):
        table_vd = shard(self.table_vd.astype(dtype), "vocab", None)
        return jnp.take(table_vd, tokens_bt, axis=0)


class DecoderLM(nn.Module):
    """A decoder: embedding, `depth` blocks that repeat the pattern `blocks`, a norm, and a linear head.

    model.apply({"params": p}, tokens_bt, positions=, segment_ids=, state=) -> (logits_btv float32, state). Defaults: one document a row,
    positions counted from the row's first token (from the state's length on, where there is one). A state comes from
    `model.init_state(batch, length)`; without one nothing is kept. `method="features"` stops before the head.

    `tied` reuses the embedding as the head. Logits are capped as soft_cap·tanh(z/soft_cap) where `soft_cap` is given. `remat` recomputes
    activations in the backward pass: "full" keeps only each period's input, "dots" keeps products with weights. Computation in `dtype` over float32 parameters.
    `resample` draws other positions where the caller gives a "dropout" key and no state (training), see Resample.
    Layers run under `nn.scan`, so parameters have a leading axis of depth / len(blocks).

    Raises ValueError for a depth that the pattern does not divide and for a mixer that is not causal.
    """

    vocab_size: int = 256
    width: int = 256
    depth: int = 4
    blocks: tuple[Block, ...] = (Block(),)
    norm: Norm = RMSNorm()
    tied: bool = False
    head_bias: bool = False
    soft_cap: float | None = None
    embedding_init: Initializer = Normal(0.02)
    head_init: Initializer = FanIn()
    remat: Literal["full", "dots"] | None = None
    unroll: int = 1
    resample: Resample | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    def validate(self) -> None:
        """Raise ValueError, naming the field, for a model that cannot be built."""
        for name in ("vocab_size", "width", "depth", "unroll"):
            if getattr(self, name) < 1:
                raise ValueError(f"DecoderLM: {name}={getattr(self, name)} must be at least 1")
        if not self.blocks or self.depth % len(self.blocks):
            raise ValueError(f"DecoderLM: depth={self.depth} is not a multiple of the {len(self.blocks)} blocks in its pattern")
        if self.tied and self.head_bias:
            raise ValueError("DecoderLM: head_bias=True needs tied=False, a tied head has no bias")
        for block in self.blocks:
            if not block.mixer.causal:
                raise ValueError(f"DecoderLM: {type(block.mixer).__name__} is not causal, a decoder would see the future; use it in EncoderLM")

    @property
    def periods(self) -> int:
        """How often the pattern of blocks repeats."""
        return self.depth // len(self.blocks)

    def setup(self):
        self.validate()
        self.embed = Embedding(self.vocab_size, self.width, self.embedding_init)
        period = Period if self.remat is None else nn.remat(Period, policy=REMAT[self.remat], prevent_cse=False)
        scanned = nn.scan(
            period,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=self.periods,
            unroll=min(self.unroll, self.periods),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        self.layers = scanned(rebuild(self.blocks))
        self.final_norm = rebuild(self.norm)
        if not self.tied:
            self.head = Linear(self.vocab_size, ("width", "vocab"), self.head_bias, self.head_init)

    def features(self, tokens_bt, *, positions=None, segment_ids=None, state=None):
        """(hidden states (B, T, D) before the head, state)."""
        if tokens_bt.ndim != 2:
            raise ValueError(f"tokens must be (batch, time), got shape {tokens_bt.shape}")
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens_bt.shape[1], dtype=jnp.int32), tokens_bt.shape)
            positions = positions if state is None else positions + state.length_b[:, None]
        if self.resample is not None and state is None and self.has_rng("dropout"):
            positions = self.resample(self.make_rng("dropout"), positions, segment_ids)
        x_btd = shard(self.embed(tokens_bt, jnp.dtype(self.dtype)), "batch", "length", "features")
        x_btd, blocks = self.layers(x_btd, None if state is None else state.blocks, positions, segment_ids)
        if state is not None:
            written = tokens_bt.shape[1] if segment_ids is None else jnp.sum(segment_ids > 0, axis=1, dtype=jnp.int32)
            state = DecoderState(state.length_b + written, blocks)
        return self.final_norm(x_btd), state

    def logits(self, x_btd):
        """Logits (…, V) in float32 of hidden states."""
        if self.tied:
            z_btv = jnp.dot(x_btd, self.embed.table_vd.astype(x_btd.dtype).T)
        else:
            z_btv = self.head(x_btd)
        z_btv = z_btv.astype(jnp.promote_types(z_btv.dtype, jnp.float32))
        return z_btv if self.soft_cap is None else self.soft_cap * jnp.tanh(z_btv / self.soft_cap)

    def __call__(self, tokens_bt, *, positions=None, segment_ids=None, state=None):
        x_btd, state = self.features(tokens_bt, positions=positions, segment_ids=segment_ids, state=state)
        return shard(self.logits(x_btd), "batch", "length", "vocab"), state

    def init_state(self, batch: int, length: int, dtype: Any = None) -> DecoderState:
        """An empty decoding state for rows of up to `length` tokens."""
        dtype = jnp.dtype(self.dtype if dtype is None else dtype)
        states = tuple(block.mixer.init_state(batch, length, self.width, dtype) for block in self.blocks)
        stacked = jax.tree.map(lambda a: jnp.broadcast_to(a, (self.periods, *a.shape)), states)
        return DecoderState(jnp.zeros((batch,), jnp.int32), stacked)

    def head_weights(self, params: Any) -> tuple[jax.Array, jax.Array | None]:
        """(W (D, V), bias (V,) or None) of the head, from this model's parameters."""
        if self.tied:
            return params["embed"]["embedding"].T, None
        return weights.materialise(params["head"]["kernel"]), params["head"].get("bias")

    def flops(self, length: int) -> float:
        """Forward FLOPs per token of mixing over `length` tokens in all layers."""
        return self.periods * sum(block.mixer.flops(length, self.width) for block in self.blocks)
