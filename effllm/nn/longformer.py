"""Longformer's attention, whose global tokens have projections of their own."""

from typing import ClassVar

from flax import linen as nn

from effllm import ops
from effllm.nn.heads import head_dim, merge_heads, split_heads
from effllm.nn.init import FanIn, Initializer
from effllm.nn.mixer import Mixer


class LongformerAttention(Mixer):
    """o_i = softmax(q_i kᵀ/√K) v over the keys less than `window` away and the global ones; o_g = softmax(q'_g k'ᵀ/√K) v' over all keys for a global g
    (Beltagy et al. 2020, arXiv 2004.05150, §3.1), seen from both sides.

    q, k, v and q', k', v' are separate projections; tokens look at a global one by its k and v. The tokens at `global_positions` of each document are
    global. `Attention(pattern=Longformer())` has one set of projections for both, and goes into a decoder.
    O(T·(window + globals)·H·K) time, in blocks of up to 128 queries; O(T) memory. Raises ValueError for a window below 1, a negative position and heads that do
    not divide the width.
    """

    heads: int = 4
    window: int = 256
    global_positions: tuple[int, ...] = (0,)
    bias: bool = False
    output_init: Initializer = FanIn()
    implementation: str | None = None
    causal: ClassVar[bool] = False
    variants: ClassVar = ({"window": 3, "global_positions": (1, 4), "bias": True},)

    def flops(self, length, width):
        return 4.0 * width * (min(length, 2 * self.window - 1 + len(self.global_positions)) + len(self.global_positions))

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, dim = x_btd.shape[-1], head_dim(self, x_btd.shape[-1])

        def attend(kind, pattern):
            q_bthk, k_bthk, v_bthk = (split_heads(x_btd, self.heads, dim, kind + name, self.bias) for name in "qkv")
            return ops.attention(
                q_bthk, k_bthk, v_bthk, causal=False, pattern=pattern(self.window, self.global_positions), q_segments_bt=segment_ids,
                k_segments_bs=segment_ids, q_positions_bt=positions, k_positions_bs=positions, implementation=self.implementation,
            )  # fmt: skip

        # Each half gives 0 where the other answers.
        o_bthk = attend("", ops.LocalQueries) + attend("global_", ops.GlobalQueries)
        return merge_heads(o_bthk, width, self.bias, self.output_init), None
