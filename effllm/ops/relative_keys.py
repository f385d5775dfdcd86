"""Scores of queries and keys with embeddings of their distance (Shaw et al. 2018, arXiv 1803.02155; He et al. 2020, arXiv 2006.03654)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from effllm.ops.buckets import deberta_buckets
from effllm.ops.distance import behind


def _pick(scores_bhtn: jax.Array, index_bts: jax.Array) -> jax.Array:
    """(B, H, T, S): for each query and key the score of their distance's embedding, as a product: the gradient of a gather would scatter."""
    one_btsn = jax.nn.one_hot(index_bts, scores_bhtn.shape[-1], dtype=scores_bhtn.dtype)
    return jnp.einsum("bhtn,btsn->bhts", scores_bhtn, jnp.broadcast_to(one_btsn, (scores_bhtn.shape[0], *one_btsn.shape[1:])), precision="highest")


@dataclass(frozen=True)
class RelativeKeyBias:
    """b(i, j) = scale · q_i · a[clip(j − i, −clip, clip) + clip] with params = a (2·clip + 1, K), shared by all heads."""

    clip: int
    scale: float

    def __call__(self, table_nk, q_bthk, k_bsgk, i_bt, j_bs):
        scores_bhtn = self.scale * jnp.einsum("bthk,nk->bhtn", q_bthk, table_nk.astype(q_bthk.dtype), preferred_element_type=jnp.float32)
        return _pick(scores_bhtn, jnp.clip(-behind(i_bt, j_bs), -self.clip, self.clip) + self.clip)


@dataclass(frozen=True)
class DisentangledBias:
    """b(h, i, j) = q_scale · q_i · kr[δ(i − j), h] + k_scale · k_j · qr[δ(i − j), h]: content to position, position to content.

    params = (kr, qr), each (2·buckets, H, K); `deberta_buckets` says which bucket δ is. Key heads shared by groups serve each of their query heads.
    """

    buckets: int
    max_distance: int | None
    q_scale: float
    k_scale: float

    def __call__(self, params, q_bthk, k_bsgk, i_bt, j_bs):
        kr_nhk, qr_nhk = (p.astype(q_bthk.dtype) for p in params)
        k_bshk = jnp.repeat(k_bsgk, q_bthk.shape[2] // k_bsgk.shape[2], axis=2)
        bucket_d = deberta_buckets(self.buckets, self.max_distance)
        reach = len(bucket_d) // 2
        index_bts = jnp.take(bucket_d, jnp.clip(behind(i_bt, j_bs), -reach, reach) + reach)
        to_position_bhtn = self.q_scale * jnp.einsum("bthk,nhk->bhtn", q_bthk, kr_nhk, preferred_element_type=jnp.float32)
        to_content_bhsn = self.k_scale * jnp.einsum("bshk,nhk->bhsn", k_bshk, qr_nhk, preferred_element_type=jnp.float32)
        return _pick(to_position_bhtn, index_bts) + jnp.swapaxes(_pick(to_content_bhsn, jnp.swapaxes(index_bts, 1, 2)), 2, 3)
