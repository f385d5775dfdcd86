"""Attention through learned inducing points (Set Transformer)."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.ffn import FFN, MLP
from effllm.nn.heads import head_dim, merge_heads, nan_where, split_heads
from effllm.nn.init import Initializer, Normal
from effllm.nn.linear import Linear, parameter
from effllm.nn.mixer import Mixer
from effllm.nn.norm import LayerNorm, Norm
from effllm.nn.rebuild import adopt


class InducedSetAttention(Mixer):
    """ISAB: h = MAB(I, x), then o = attention(x, h), with I (points, D) learned (Lee et al. 2019, arXiv 1810.00825). Sees both sides.

    MAB(a, b) = norm(z + ffn(z)), z = norm(a + attention(a, b)); the second MAB's residuals, norm and ffn are those of the block around this mixer.
    Each document fills the points for itself. A row holds at most `documents` of them; later ones give NaN. Blind to order: give the
    encoder positions. O(T·points·D) time without packing, O(T) memory.
    """

    heads: int = 4
    points: int = 32
    ffn: FFN = MLP()
    norm: Norm = LayerNorm()
    documents: int = 8
    table_init: Initializer = Normal(1.0)
    causal: ClassVar[bool] = False
    variants: ClassVar = ({"points": 3},)

    def flops(self, length, width):
        return 8.0 * self.points * width  # two attentions between T tokens and the points

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        (batch, length, width), dim = x_btd.shape, head_dim(self, x_btd.shape[-1])
        if self.points < 1:
            raise ValueError(f"InducedSetAttention: points={self.points} must be at least 1")
        found = ops.documents(segment_ids, (batch, length), self.documents)
        slots_bm, tokens_bt = (None, None) if segment_ids is None else (found.slots(self.points), found.segments_bt)
        point_md = parameter(self, "inducing", self.table_init, (self.points, width), (None, "width")).astype(x_btd.dtype)
        point_bmd = jnp.tile(point_md, (batch, found.count, 1))
        inner_bmhk = ops.attention(
            split_heads(point_bmd, self.heads, dim, "point_q"), split_heads(x_btd, self.heads, dim, "point_k"), split_heads(x_btd, self.heads, dim, "point_v"),
            causal=False, q_segments_bt=slots_bm, k_segments_bs=tokens_bt,
        )  # fmt: skip
        inner_bmd = Linear(width, ("heads", "width"), name="point_output")(inner_bmhk.reshape(*inner_bmhk.shape[:2], -1))
        h_bmd = adopt(self, self.norm, "attention_norm")(point_bmd + inner_bmd)
        h_bmd = adopt(self, self.norm, "output_norm")(h_bmd + adopt(self, self.ffn, "point_ffn")(h_bmd))
        o_bthk = ops.attention(
            split_heads(x_btd, self.heads, dim, "q"), split_heads(h_bmd, self.heads, dim, "k"), split_heads(h_bmd, self.heads, dim, "v"),
            causal=False, q_segments_bt=tokens_bt, k_segments_bs=slots_bm,
        )  # fmt: skip
        return nan_where(found.lost_bt, merge_heads(o_bthk, width)), None
