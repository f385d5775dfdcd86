"""Funnel-Transformer: layers over fewer and fewer tokens, then some over all of them again (Dai et al. 2020, arXiv 2006.03236)."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.block import Block
from effllm.nn.ffn import FFN, MLP
from effllm.nn.heads import merge_heads, nan_where, split_heads
from effllm.nn.init import FanIn, Initializer, Normal
from effllm.nn.linear import Kernel, parameter
from effllm.nn.mixer import Mixer
from effllm.nn.norm import LayerNorm, Norm
from effllm.nn.rebuild import adopt, rebuild
from effllm.nn.recurrent import head_width


class Tokens(NamedTuple):
    """Features (B, T, D) of tokens, with the position and the segment of each; segments None is one document without padding."""

    x_btd: jax.Array
    positions_bt: jax.Array
    segments_bt: jax.Array | None

    def first(self) -> jax.Array:
        """(B, T) whether a token is its document's first."""
        return ops.documents(self.segments_bt, self.x_btd.shape[:2], 1).rank_bt == 0


class FunnelAttention(Mixer):
    """softmax(((q_i + u)·k_j + m_ij·((q_i + v)·r_{i−j} + (q_i + s)·c))/√K) v_j with r_Δ = W_r·[sin Δω, cos Δω] of the model's width (appendix A.2).

    As in Transformer-XL, exact and O(T) memory: what depends on both positions is a product of D + 1 more channels (ops.relative_query), the paper's
    factorised form. c is for keys of the query's own kind; transformers has one for another kind too, kept beside it in `kinds`: a text here is of one
    kind. m_ij is 0 where i or j is the document's first token, which stands apart (`separate_first`), else 1. Sees both sides. `asks` are
    tokens that ask instead of x's own. O(T²·H·(K + D)) time. Raises ValueError where heads do not divide the width and none head_dim is given.
    """

    heads: int = 4
    head_dim: int | None = None
    separate_first: bool = True
    bias: bool = False
    vector_init: Initializer = Normal(0.02)
    output_init: Initializer = FanIn()
    implementation: str | None = None
    causal: ClassVar[bool] = False
    variants: ClassVar = ({"head_dim": 4, "separate_first": False, "bias": True},)

    def flops(self, length, width):
        inner = self.heads * head_width(self, width)
        return 2.0 * length * (2 * inner + self.heads * (width + 1)) + 2.0 * width * inner

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None, asks: Tokens | None = None):
        told = Tokens(x_btd, positions, segment_ids)
        asks = told if asks is None else asks
        width, dim = x_btd.shape[-1], head_width(self, x_btd.shape[-1])
        q_bthk = split_heads(asks.x_btd, self.heads, dim, "q")
        k_bshk, v_bshk = (split_heads(x_btd, self.heads, dim, name, self.bias) for name in ("k", "v"))

        def vectors(name, *shape):
            axes = (*(None,) * len(shape), "heads", None)
            return parameter(self, name, self.vector_init, (*shape, self.heads, dim), axes).astype(x_btd.dtype)

        w_chk = Kernel(width, self.heads * dim, (None, "heads"), name="r")(x_btd.dtype).reshape(width, self.heads, dim)
        a_bthc = jnp.einsum("bthk,chk->bthc", q_bthk + vectors("v_position"), w_chk, preferred_element_type=jnp.promote_types(x_btd.dtype, jnp.float32))
        kind_bth = jnp.einsum("bthk,hk->bth", q_bthk + vectors("v_kind"), vectors("kinds", 2)[1])
        more_bthc = jnp.concatenate([ops.relative_query(a_bthc, asks.positions_bt).astype(x_btd.dtype), kind_bth[..., None]], axis=-1)
        waves_bsc = jnp.pad(ops.sinusoid(positions, width), ((0, 0), (0, 0), (0, 1)), constant_values=1).astype(x_btd.dtype)
        if self.separate_first:
            more_bthc = jnp.where(asks.first()[..., None, None], 0, more_bthc)
            waves_bsc = jnp.where(told.first()[..., None], 0, waves_bsc)
        waves_bshc = jnp.broadcast_to(waves_bsc[:, :, None], (*k_bshk.shape[:3], width + 1))
        o_bthk = ops.attention(
            jnp.concatenate([q_bthk + vectors("v_content"), more_bthc], -1), jnp.concatenate([k_bshk, waves_bshc], -1), v_bshk, causal=False,
            q_segments_bt=asks.segments_bt, k_segments_bs=segment_ids, scale=dim**-0.5, implementation=self.implementation,
        )  # fmt: skip
        return merge_heads(o_bthk, width, self.bias, self.output_init), None


class FunnelLayer(Block):
    """norm(x + mixer(x)), then norm(x + ffn(x)), where other tokens may ask, which then go on in x's place."""

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None, asks: Tokens | None = None):
        y_btd, state = self.mixer(x_btd, positions=positions, segment_ids=segment_ids, state=state, asks=asks)
        x_btd = adopt(self, self.norm, "mixer_norm")(self.residual(x_btd if asks is None else asks.x_btd, y_btd))
        if self.ffn is not None:
            x_btd = adopt(self, self.norm, "ffn_norm")(self.residual(x_btd, self.ffn(x_btd)))
        return x_btd, state


class FunnelBlock(Block):
    """A whole Funnel-Transformer as one block: stages[0] layers over the T tokens, stages[1] over T/2, stages[2] over T/4 …, then each token takes the
    last stage's features of its stretch, plus its own after the first stage, through `decoder` more layers. EncoderLM(depth=1, blocks=(FunnelBlock(),)).

    Every layer has this block's mixer, ffn, norm (after each branch) and dropout, and parameters of its own. Between stages pairs of tokens are
    averaged; the averages ask all tokens of the stage before, and go on. With the mixer's `separate_first` a document's first token stands
    apart, and `truncate` then lets its last one not ask, so that T/2 stays even on an accelerator. Each document is pooled by itself; a row
    holds up to `documents`, later ones give NaN. Memory and time of a layer at stage s are those of T/2^s tokens and, packed, up to `documents` more.
    Raises ValueError for a stage without layers.
    """

    mixer: FunnelAttention = FunnelAttention()
    ffn: FFN | None = MLP()
    norm: Norm = LayerNorm()
    stages: tuple[int, ...] = (2, 2)
    decoder: int = 1
    truncate: bool = True
    documents: int = 8

    def flops(self, length, width):
        total = self.decoder * self.mixer.flops(length, width)
        for stage, layers in enumerate(self.stages):
            share, before = 0.5**stage, 0.5 ** max(stage - 1, 0)
            total += share * (self.mixer.flops(length * before, width) + (layers - 1) * self.mixer.flops(length * share, width))
        return total

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        if not self.stages or min(self.stages) < 1 or self.decoder < 0:
            raise ValueError(f"FunnelBlock: stages={self.stages} need one layer each at least, and decoder={self.decoder} must not be negative")

        def layer(name, told, asks=None):
            made = FunnelLayer(rebuild(self.mixer), rebuild(self.ffn), self.norm, self.dropout)
            y_btd, _ = adopt(self, made, name)(told.x_btd, positions=told.positions_bt, segment_ids=told.segments_bt, asks=asks)
            return (told if asks is None else asks)._replace(x_btd=y_btd)

        whole = now = Tokens(x_btd, positions, segment_ids)
        for stage, layers in enumerate(self.stages):
            now = layer(f"stage_{stage}_layer_0", now, self.pooled(now) if stage else None)
            for number in range(1, layers):
                now = layer(f"stage_{stage}_layer_{number}", now)
            whole = whole if stage else now
        found = ops.documents(segment_ids, x_btd.shape[:2], self.documents)
        whole = whole._replace(x_btd=whole.x_btd + self.spread(now, found, 2 ** (len(self.stages) - 1)))
        for number in range(self.decoder):
            whole = layer(f"decoder_layer_{number}", whole)
        return nan_where(found.lost_bt, whole.x_btd), None

    def pooled(self, now: Tokens) -> Tokens:
        """Means of pairs of tokens, each at the position of its first one."""
        (batch, length), apart = now.x_btd.shape[:2], int(self.mixer.separate_first)
        found = ops.documents(now.segments_bt, (batch, length), self.documents)
        length_bt = found.of(found.length_bn)
        asks_bt = (found.segments_bt > 0) & ~((found.rank_bt > 0) & (found.rank_bt == length_bt - 1) & bool(apart and self.truncate))

        def count(n):
            return (n + 1) // 2 if not apart else (n > 0) * (1 + (n - self.truncate) // 2)

        pairs_bn = count(found.length_bn)
        slots = count(length) if now.segments_bt is None else length // 2 + self.documents
        slot_bt = jnp.where(asks_bt, found.of(jnp.cumsum(pairs_bn, axis=1) - pairs_bn) + (found.rank_bt + apart) // 2, slots)
        wide_btd = now.x_btd.astype(jnp.promote_types(now.x_btd.dtype, jnp.float32))
        row_b1, empty_bn = jnp.arange(batch)[:, None], jnp.zeros((batch, slots + 1), jnp.int32)
        # A pair's first token has an odd rank where the document's first stands apart, else an even one.
        begins_bt = asks_bt & ((found.rank_bt % 2 == apart) | (found.rank_bt == 0))
        positions_bn = empty_bn.at[row_b1, slot_bt].add(jnp.where(begins_bt, now.positions_bt, 0))[:, :-1]
        segments_bn = empty_bn.at[row_b1, slot_bt].max(found.segments_bt)[:, :-1]
        x_bnd = ops.mean_by(wide_btd, slot_bt, slots).astype(now.x_btd.dtype)
        return Tokens(x_bnd, positions_bn, None if now.segments_bt is None else segments_bn)

    def spread(self, now: Tokens, found: ops.Documents, stride: int) -> jax.Array:
        """(B, T, D) for each token of the documents found the features of its stretch; 0 where truncation left none."""
        left = ops.documents(now.segments_bt, now.x_btd.shape[:2], found.count)
        place_bt = found.rank_bt // stride
        if self.mixer.separate_first:
            place_bt = jnp.where(found.rank_bt > 0, 1 + (found.rank_bt - 1) // stride, 0)
        there_bt = (found.segments_bt > 0) & (place_bt < found.of(left.length_bn))
        slot_bt = jnp.where(there_bt, found.of(jnp.cumsum(left.length_bn, axis=1) - left.length_bn) + place_bt, 0)
        return jnp.where(there_bt[..., None], jnp.take_along_axis(now.x_btd, slot_bt[..., None], axis=1), 0)
