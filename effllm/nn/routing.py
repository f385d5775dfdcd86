"""Attention within clusters that k-means learns."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.groups import GroupState, attend
from effllm.nn.heads import head_dim, merge_heads, split_heads
from effllm.nn.init import Normal
from effllm.nn.linear import parameter
from effllm.nn.mixer import Mixer
from effllm.nn.position import RoPE
from effllm.ops.norm import unit


class RoutingAttention(Mixer):
    """A token sees the last `window` tokens of its cluster, itself included (Routing Transformer: Roy et al. 2020, arXiv 2003.05997).

    Queries are the keys, q = √K·x/‖x‖ per head, as the paper's decoders have it; the cluster is that of the nearest of `clusters` learned centroids μ on
    the unit sphere. Centroids follow their tokens by the gradient of rate·mean ‖x/‖x‖ − μ‖², which reaches nothing else (`ops.with_loss`), where the paper keeps
    a moving average. The paper lets each centroid take its nearest tokens of the whole text, so that membership reads the future; here a
    token chooses its centroid. The paper routes half of the heads and gives the others a local window: alternate with Attention(window=…).

    O(T·(window + clusters)·D) time, O(T) memory; state 2·D numbers a token and its clusters.
    """

    heads: int = 4
    clusters: int = 8
    window: int = 64
    rate: float = 1.0
    position: RoPE | None = RoPE()
    variants: ClassVar = ({"clusters": 2, "window": 3},)

    def init_state(self, batch, length, width, dtype):
        return GroupState.empty(batch, length, self.heads, head_dim(self, width), 1, dtype)

    def flops(self, length, width):
        return 4.0 * min(self.window, length / (2 * self.clusters)) * width + 2.0 * self.clusters * width

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        dim = head_dim(self, x_btd.shape[-1])
        if min(self.clusters, self.window) < 1:
            raise ValueError(f"RoutingAttention: clusters={self.clusters} and window={self.window} must be at least 1")
        raw_bthk, v_bthk = (split_heads(x_btd, self.heads, dim, name) for name in ("qk", "v"))
        unit_bthk = unit(raw_bthk.astype(jnp.promote_types(raw_bthk.dtype, jnp.float32)))
        centroid_hck = parameter(self, "centroids", Normal(dim**-0.5), (self.heads, self.clusters, dim), ("heads", None, None))
        fixed_bthk = jax.lax.stop_gradient(unit_bthk)
        near_bthc = jnp.einsum("bthk,hck->bthc", fixed_bthk, unit(centroid_hck))
        cluster_bth = jnp.argmax(near_bthc, axis=-1).astype(jnp.int32)
        real_bt = jnp.ones(x_btd.shape[:2], bool) if segment_ids is None else segment_ids > 0
        far_bth = 2 - 2 * jnp.max(near_bthc, axis=-1)  # ‖x − μ‖² of unit vectors
        loss = self.rate * jnp.sum(far_bth * real_bt[..., None]) / (jnp.maximum(jnp.sum(real_bt), 1) * self.heads)
        q_bthk = ops.with_loss((dim**0.5 * unit_bthk).astype(x_btd.dtype), loss)
        k_bthk = q_bthk
        if self.position is not None:
            q_bthk, k_bthk = self.position.rotate(q_bthk, k_bthk, positions)
        o_bthk, state = attend(
            q_bthk, k_bthk, v_bthk, cluster_bth[..., None], self.clusters, state, segment_ids, positions, window=self.window, scale=dim**-0.5
        )
        return merge_heads(o_bthk, x_btd.shape[-1]), state
