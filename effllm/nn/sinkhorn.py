"""Attention to the own block and to a block that a learned, soft permutation brings beside it."""

from typing import ClassVar

from flax import linen as nn

from effllm import ops
from effllm.nn.heads import head_dim, merge_heads, nan_where, split_heads
from effllm.nn.mixer import Mixer


class SinkhornAttention(Mixer):
    """A token sees its own block and the blocks that Sinkhorn's normalisation sorts to it (Tay et al. 2020, arXiv 2002.11296; see ops.sinkhorn_attention).

    The paper's sorting network has an output for each of a fixed number of blocks; here blocks ask and offer by projections of their means, so that
    texts of any length are sorted. Normalising columns reads later blocks, so that it sees both sides. A row holds at most `documents` documents;
    later ones give NaN. O(T·block·D + T²/block·D) time, O(T·block) memory.
    """

    heads: int = 4
    block: int = 64
    iterations: int = 5
    documents: int = 8
    causal: ClassVar[bool] = False
    variants: ClassVar = ({"block": 4, "iterations": 2},)

    def flops(self, length, width):
        return 8.0 * min(self.block, length) * width + 4.0 * length / self.block * width

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        dim = head_dim(self, x_btd.shape[-1])
        if min(self.block, self.iterations) < 1:
            raise ValueError(f"SinkhornAttention: block={self.block} and iterations={self.iterations} must be at least 1")
        names = ("q", "k", "v", "ask", "offer")
        q_bthk, k_bthk, v_bthk, ask_bthk, offer_bthk = (split_heads(x_btd, self.heads, dim, name) for name in names)
        found = ops.documents(segment_ids, x_btd.shape[:2], self.documents)
        o_bthk = ops.sinkhorn_attention(q_bthk, k_bthk, v_bthk, ask_bthk, offer_bthk, found, block=self.block, iterations=self.iterations)
        return nan_where(found.lost_bt, merge_heads(o_bthk, x_btd.shape[-1])), None
