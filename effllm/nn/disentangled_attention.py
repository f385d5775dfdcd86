"""DeBERTa's attention with the projections of its position embeddings, which all layers share."""

from typing import Any, ClassVar

import jax
from einops import rearrange
from flax import linen as nn

from effllm import ops
from effllm.nn.everywhere import from_everywhere
from effllm.nn.heads import head_dim, merge_heads
from effllm.nn.init import FanIn, Initializer, Normal
from effllm.nn.linear import Linear, parameter
from effllm.nn.mixer import Mixer
from effllm.nn.norm import Norm
from effllm.nn.rebuild import adopt
from effllm.shard import shard


class DistanceEmbedding(nn.Module):
    """E (2·buckets, D), a vector for each bucket of distances, normalised by `norm` where given (DeBERTa-v3 does; He et al. 2021, arXiv 2111.09543)."""

    buckets: int = 32
    norm: Norm | None = None
    init: Initializer = Normal(0.02)

    @nn.compact
    def __call__(self, width: int, dtype: Any) -> jax.Array:
        e_nd = parameter(self, "embedding", self.init, (2 * self.buckets, width), (None, "width"))
        e_nd = shard(e_nd.astype(dtype), None, None)
        return e_nd if self.norm is None else adopt(self, self.norm, "distance_norm")(e_nd)


class DisentangledAttention(Mixer):
    """softmax((q·k + q·kr[δ(i − j)] + k·qr[δ(i − j)]) / √(3K)) v with kr = E W_kr, qr = E W_qr (He et al. 2020, arXiv 2006.03654), seen from both sides.

    E (2·buckets, D) are the model's embeddings of distances (EncoderLM.distances), one for all layers; the layer's own where the model has none.
    `share_projections` takes the content's W_q and W_k for W_qr and W_kr, as DeBERTa-v2 and v3 do. δ is ops.deberta_buckets, a bucket for each
    distance below `buckets` where max_distance=None. The position `Disentangled` learns kr and qr themselves and goes into any Attention.
    O(T²·(K + buckets)·H) time, O(T) memory. Raises ValueError where heads do not divide the width and where E has other rows than 2·buckets.
    """

    heads: int = 4
    buckets: int = 32
    max_distance: int | None = 128
    share_projections: bool = False
    bias: bool = False
    output_init: Initializer = FanIn()
    implementation: str | None = None
    causal: ClassVar[bool] = False
    variants: ClassVar = ({"buckets": 4, "max_distance": None, "share_projections": True, "bias": True},)

    def flops(self, length, width):
        return 4.0 * length * width + 8.0 * self.buckets * width

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, dim = x_btd.shape[-1], head_dim(self, x_btd.shape[-1])
        e_nd = from_everywhere()
        if e_nd is None:
            e_nd = DistanceEmbedding(self.buckets, name="distances")(width, x_btd.dtype)
        if len(e_nd) != 2 * self.buckets:
            raise ValueError(f"DisentangledAttention: buckets={self.buckets} need {2 * self.buckets} embeddings, EncoderLM.distances has {len(e_nd)}")

        def projection(name):
            return Linear(self.heads * dim, ("width", "heads"), self.bias, name=name)

        def split(y_btf):
            return shard(rearrange(y_btf, "b t (h k) -> b t h k", k=dim), "batch", "length", "heads", None)

        q, k, v = map(projection, ("q", "k", "v"))
        q_distance, k_distance = (q, k) if self.share_projections else (projection("q_distance"), projection("k_distance"))
        kr_nhk, qr_nhk = (rearrange(linear(e_nd), "n (h k) -> n h k", k=dim) for linear in (k_distance, q_distance))
        scale = (3 * dim) ** -0.5
        o_bthk = ops.attention(
            split(q(x_btd)), split(k(x_btd)), split(v(x_btd)), causal=False, q_segments_bt=segment_ids, k_segments_bs=segment_ids,
            q_positions_bt=positions, k_positions_bs=positions, scale=scale, implementation=self.implementation,
            bias=ops.Bias((kr_nhk, qr_nhk), ops.DisentangledBias(self.buckets, self.max_distance, scale, scale)),
        )  # fmt: skip
        return merge_heads(o_bthk, width, self.bias, self.output_init), None
