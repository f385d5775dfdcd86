"""Attention whose queries are pooled along time (Funnel-Transformer)."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.heads import head_dim, merge_heads, nan_where, split_heads
from effllm.nn.mixer import Mixer


class PooledAttention(Mixer):
    """o_t = attention(mean of x over t's stretch, x): `stride` tokens in a row ask as one, of all tokens (Dai et al. 2020, arXiv 2006.03236).

    Funnel-Transformer's attention with pooled queries and whole keys, its answer repeated for every token of the stretch as its decoder does:
    the form in which it keeps the length, so that any block can hold it; the residual around it brings the tokens' own features back. Sees both
    sides. Stretches begin with each document, of which a row holds at most `documents`; later ones give NaN. Blind to order within a document
    but for the stretches: give the encoder positions. O(T²·D / stride) time, O(T) memory. stride=1 is full attention.
    """

    heads: int = 4
    stride: int = 2
    bias: bool = False
    documents: int = 8
    causal: ClassVar[bool] = False
    variants: ClassVar = ({"stride": 4, "bias": True},)

    def flops(self, length, width):
        return 4.0 * length * width / self.stride

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        (batch, length, width), dim = x_btd.shape, head_dim(self, x_btd.shape[-1])
        if self.stride < 1:
            raise ValueError(f"PooledAttention: stride={self.stride} must be at least 1, where each token asks for itself")
        found = ops.documents(segment_ids, (batch, length), self.documents)
        stretches_bn = -(-found.length_bn // self.stride)
        before_bn = jnp.cumsum(stretches_bn, axis=1) - stretches_bn
        count = -(-length // self.stride) + found.count - 1
        stretch_bt = jnp.where(found.segments_bt > 0, found.of(before_bn) + found.rank_bt // self.stride, count)
        pooled_bpd = ops.mean_by(x_btd.astype(jnp.promote_types(x_btd.dtype, jnp.float32)), stretch_bt, count).astype(x_btd.dtype)
        # The document of a stretch is the last one that begins at or before it.
        number_bp = jnp.sum(jnp.arange(count)[:, None] >= before_bn[:, None], axis=-1)
        segments_bp = jnp.where(jnp.arange(count) < jnp.sum(stretches_bn, axis=1)[:, None], number_bp, 0)
        stretch_segments, token_segments = (None, None) if segment_ids is None else (segments_bp, found.segments_bt)
        q_bphk, k_bthk, v_bthk = (split_heads(x, self.heads, dim, name, self.bias) for x, name in ((pooled_bpd, "q"), (x_btd, "k"), (x_btd, "v")))
        o_bphk = ops.attention(q_bphk, k_bthk, v_bthk, causal=False, q_segments_bt=stretch_segments, k_segments_bs=token_segments)
        o_bpd = jnp.pad(merge_heads(o_bphk, width, self.bias), ((0, 0), (0, 1), (0, 0)))
        return nan_where(found.lost_bt, jnp.take_along_axis(o_bpd, stretch_bt[..., None], axis=1)), None
