"""Attention to blocks through their landmarks."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.cache import KVCache
from effllm.nn.heads import head_dim, merge_heads, nan_where, split_heads
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.position import RoPE
from effllm.nn.remember import remember


class LandmarkAttention(Mixer):
    """Attention whose softmax chooses among the tokens of the own block and earlier blocks' landmarks (Mohtashami & Jaggi 2023, arXiv 2305.16300; see ops.landmark_attention).

    A block is `block` tokens of a document. The paper inserts a landmark token after each; here a block's last token has a landmark key of its own, by a
    projection of its own, which only later blocks see, so that texts stay as they are. With `retrieved` a query sees the blocks of that many best
    landmarks alone, as the paper does at inference. O(T²·D) time, O(chunk·T) memory; state 3·D numbers a token.
    """

    heads: int = 4
    block: int = 32
    retrieved: int | None = None
    position: RoPE | None = RoPE()
    chunk: int | None = None
    variants: ClassVar = ({"block": 3, "retrieved": 1, "chunk": 5},)

    def init_state(self, batch, length, width, dtype):
        dim = head_dim(self, width)
        return KVCache.empty(batch, length, self.heads, 2 * dim, dim, dtype)

    def flops(self, length, width):
        return 3.0 * length * width  # scores with keys and landmarks, and PV, over the causal half

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        dim = head_dim(self, x_btd.shape[-1])
        at_least(self, 1, "block", "chunk", "retrieved")
        q_bthk, k_bthk, mark_bthk, v_bthk = (split_heads(x_btd, self.heads, dim, name) for name in ("q", "k", "landmark", "v"))
        if self.position is not None:
            k_bthk, mark_bthk = self.position.rotate(k_bthk, mark_bthk, positions)
            q_bthk, _ = self.position.rotate(q_bthk, q_bthk, positions)
        state, memory = remember(state, jnp.concatenate([k_bthk, mark_bthk], axis=-1), v_bthk, segment_ids, positions)
        k_bshk, mark_bshk = jnp.split(memory.k_bshk, 2, axis=-1)
        o_bthk = ops.landmark_attention(
            q_bthk, k_bshk, mark_bshk, memory.v_bshk, memory.place_bt, memory.segments_bs, block=self.block, retrieved=self.retrieved, chunk=self.chunk
        )
        return nan_where(memory.lost_bt, merge_heads(o_bthk, x_btd.shape[-1])), state
