"""What every language model here is made of: an embedding, a repeated pattern of blocks, a norm and a linear head."""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import weights
from effllm.nn.block import Block, LinkedBlock, Period
from effllm.nn.init import Fill, FanIn, Initializer, Normal
from effllm.nn.linear import Linear, parameter
from effllm.nn.norm import Norm, RMSNorm
from effllm.nn.rebuild import rebuild
from effllm.nn.resample import Resample
from effllm.shard import shard

REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Embedding(nn.Module):
    """A row of E (vocab_size, width) for each token; `attend` multiplies by Eᵀ, the tied head (Press & Wolf 2017, arXiv 1608.05859)."""

    vocab_size: int
    width: int
    init: Initializer
    axis: str | None = "vocab"

    def setup(self):
        self.table_vd = parameter(self, "embedding", self.init, (self.vocab_size, self.width), (self.axis, "width"))

    def __call__(self, tokens_bt, dtype):
        table_vd = shard(self.table_vd.astype(dtype), self.axis, None)
        return jnp.take(table_vd, tokens_bt, axis=0)


class Bias(nn.Module):
    """x + b with b (features,): what a tied head has of its own."""

    axis: str | None = None

    @nn.compact
    def __call__(self, x):
        return x + parameter(self, "bias", Fill(0.0), x.shape[-1:], (self.axis,)).astype(x.dtype)


class LanguageModel(nn.Module):
    """Base of DecoderLM and EncoderLM: embedding, `depth` blocks that repeat the pattern `blocks`, a norm, and a linear head.

    model.apply({"params": p}, tokens_bt, positions=, segment_ids=) -> (logits_btv float32, state or None). Defaults: one document a row,
    positions counted from the row's first token. `method="features"` stops before the head.

    `tied` reuses the embedding as the head. Logits are capped as soft_cap·tanh(z/soft_cap) where `soft_cap` is given. `remat` recomputes
    activations in the backward pass: "full" keeps only each period's input, "dots" keeps products with weights. Computation in `dtype` over float32 parameters.
    `trained_length` is the longest text that the model has learned to read, where that is known: a longer text or state is refused.
    `resample` draws other positions where the caller gives a "dropout" key and no state (training), see Resample.
    Layers run under `nn.scan`, so parameters have a leading axis of depth / len(blocks). `norm=None` leaves the last norm out.

    `decodes` says whether it can generate. Raises ValueError for a depth that the pattern does not divide.
    """

    vocab_size: int = 256
    width: int = 256
    depth: int = 4
    blocks: tuple[Block, ...] = (Block(),)
    norm: Norm | None = RMSNorm()
    tied: bool = False
    head_bias: bool = False
    soft_cap: float | None = None
    embedding_init: Initializer = Normal(0.02)
    head_init: Initializer = FanIn()
    remat: Literal["full", "dots"] | None = None
    unroll: int = 1
    resample: Resample | None = None
    trained_length: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    decodes: ClassVar[bool] = False

    def validate(self) -> None:
        """Raise ValueError, naming the field, for a model that cannot be built."""
        kind = type(self).__name__
        for name in ("vocab_size", "width", "depth", "unroll"):
            if getattr(self, name) < 1:
                raise ValueError(f"{kind}: {name}={getattr(self, name)} must be at least 1")
        if self.trained_length is not None and self.trained_length < 1:
            raise ValueError(f"{kind}: trained_length={self.trained_length} must be at least 1; None checks nothing")
        if self.soft_cap is not None and self.soft_cap <= 0:
            raise ValueError(f"{kind}: soft_cap={self.soft_cap} must be positive; None leaves logits as they are")
        if not self.blocks or self.depth % len(self.blocks):
            raise ValueError(f"{kind}: depth={self.depth} is not a multiple of the {len(self.blocks)} blocks in its pattern")

    def within_limit(self, length: int) -> None:
        """Raise ValueError for a text longer than those that the model has learned to read."""
        if self.trained_length is not None and length > self.trained_length:
            raise ValueError(
                f"{type(self).__name__}: {length} tokens are more than trained_length={self.trained_length}; stretch the positions, as by "
                f"RoPE(scaling=YaRN({length / self.trained_length:.3g}, {self.trained_length})), and give the new trained_length, or None to go on unchecked"
            )

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
        if self.norm is not None:
            self.final_norm = rebuild(self.norm)
        if not self.tied:
            self.head = Linear(self.vocab_size, ("width", "vocab"), self.head_bias, self.head_init, wide=True)
        elif self.head_bias:
            self.head = Bias("vocab")

    def placed(self, tokens_bt, positions, segment_ids, after_b=None):
        """(B, T) positions: as given, by default 0, 1, … along each row, or on from the after_b tokens of a state, padding not counted; resampled in training."""
        if tokens_bt.ndim != 2 or not tokens_bt.shape[1]:
            raise ValueError(f"tokens must be (batch, time) with one token a row at least, got shape {tokens_bt.shape}")
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens_bt.shape[1], dtype=jnp.int32), tokens_bt.shape)
            if segment_ids is not None:
                positions = jnp.cumsum(segment_ids > 0, axis=1, dtype=jnp.int32) - 1
            positions = jnp.maximum(positions if after_b is None else positions + after_b[:, None], 0)
        if self.resample is not None and after_b is None and self.has_rng("dropout"):
            positions = self.resample(self.make_rng("dropout"), positions, segment_ids)
        return positions

    def through(self, x_btd, states, positions, segment_ids):
        """(what the last block gives, the states after), from what the first one reads."""
        link = next((block.first_link(x_btd) for block in self.blocks if isinstance(block, LinkedBlock)), None)
        (x_btd, _), states = self.layers((x_btd, link), states, positions, segment_ids)
        return x_btd, states

    def normed(self, x_btd):
        """What the blocks gave, after the last norm."""
        return x_btd if self.norm is None else self.final_norm(x_btd)

    def logits(self, x_btd):
        """Logits (…, V) in float32 of hidden states."""
        if self.tied:
            z_btv = weights.matmul(x_btd, self.embed.table_vd.T, wide=True)
            z_btv = self.head(z_btv) if self.head_bias else z_btv
        else:
            z_btv = self.head(x_btd)
        return z_btv if self.soft_cap is None else self.soft_cap * jnp.tanh(z_btv / self.soft_cap)

    def head_weights(self, params: Any) -> tuple[jax.Array, jax.Array | None]:
        """(W (D, V), bias (V,) or None) of the head, from this model's parameters."""
        w_dv = params["embed"]["embedding"].T if self.tied else weights.materialise(params["head"]["kernel"])
        return w_dv, params.get("head", {}).get("bias")

    def flops(self, length: int) -> float:
        """Forward FLOPs per token of mixing over `length` tokens in all layers."""
        return self.periods * sum(block.flops(length, self.width) for block in self.blocks)
