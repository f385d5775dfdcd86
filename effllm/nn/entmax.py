"""Attention that learns how sparse it is."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.cache import KVCache
from effllm.nn.heads import head_dim, merge_heads, nan_where, split_heads
from effllm.nn.init import Fill
from effllm.nn.linear import parameter
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.position import RoPE
from effllm.nn.remember import remember
from effllm.ops.entmax import LOWEST_ALPHA


class EntmaxAttention(Mixer):
    """o = entmax_α(q kᵀ/√K) v: low scores get exactly zero weight, and each head learns α (Correia et al. 2019, arXiv 1909.00015; see ops.entmax).

    α = 1.01 + 0.99·sigmoid(a), from softmax's 1 to sparsemax's 2; a begins at 0. Exact, so that it costs what attention does and the search for τ more:
    O(T²·D) time, O(chunk·T) memory; state 2·D numbers a token.
    """

    heads: int = 4
    position: RoPE | None = RoPE()
    chunk: int | None = None
    variants: ClassVar = ({"position": None, "chunk": 5},)

    def init_state(self, batch, length, width, dtype):
        dim = head_dim(self, width)
        return KVCache.empty(batch, length, self.heads, dim, dim, dtype)

    def flops(self, length, width):
        return 2.0 * length * width

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        dim = head_dim(self, x_btd.shape[-1])
        at_least(self, 1, "chunk")
        q_bthk, k_bthk, v_bthk = (split_heads(x_btd, self.heads, dim, name) for name in ("q", "k", "v"))
        if self.position is not None:
            q_bthk, k_bthk = self.position.rotate(q_bthk, k_bthk, positions)
        alpha_h = LOWEST_ALPHA + (2 - LOWEST_ALPHA) * jax.nn.sigmoid(parameter(self, "alpha", Fill(0.0), (self.heads,), ("heads",)))
        state, memory = remember(state, k_bthk, v_bthk, segment_ids, positions)
        o_bthk = ops.entmax_attention(
            q_bthk, memory.k_bshk, memory.v_bshk, jnp.asarray(alpha_h), memory.place_bt, memory.order_bs, memory.q_segments_bt, memory.segments_bs,
            chunk=self.chunk,
        )  # fmt: skip
        return nan_where(memory.lost_bt, merge_heads(o_bthk, x_btd.shape[-1])), state
