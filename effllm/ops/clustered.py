"""Attention of clusters of queries (Vyas et al. 2020, arXiv 2007.04825)."""

import jax
import jax.numpy as jnp

from effllm.ops.attention import attention
from effllm.ops.documents import Documents, mean_by


def clustered_attention(q_bthk: jax.Array, k_bthk: jax.Array, v_bthv: jax.Array, found: Documents, *, clusters: int, iterations: int) -> jax.Array:
    """o_t = softmax(q̄ kᵀ/√K) v with q̄ the mean of the queries in t's cluster, by head and document; (B, T, H, V).

    Lloyd's algorithm from the queries at the middles of equal stretches of each document; an emptied cluster keeps its centre.
    """
    batch, length, heads, width = q_bthk.shape
    q, k, v = (jnp.swapaxes(x, 1, 2).reshape(batch * heads, length, -1) for x in (q_bthk, k_bthk, v_bthv))
    index_nt, length_nd = (jnp.repeat(a, heads, axis=0) for a in (found.index_bt, found.length_bn))
    slots = found.count * clusters
    fixed = jax.lax.stop_gradient(q).astype(jnp.promote_types(q.dtype, jnp.float32))
    # The token of rank r of document d is number begin_d + r of the real ones, in order.
    real_nt = index_nt < found.count
    by_order_nt = jnp.argsort(~real_nt, axis=1, stable=True)
    begin_nd1 = (jnp.cumsum(length_nd, axis=1) - length_nd)[..., None]
    middle_ndc = begin_nd1 + (2 * jnp.arange(clusters) + 1) * length_nd[..., None] // (2 * clusters)
    token_ns = jnp.take_along_axis(by_order_nt, jnp.clip(middle_ndc, 0, length - 1).reshape(-1, slots), axis=1)
    centre_nsk = jnp.take_along_axis(fixed, token_ns[..., None], axis=1)
    document_s = jnp.arange(slots) // clusters

    def assign(centre_nsk):
        far_nts = jnp.sum(centre_nsk**2, axis=-1)[:, None] - 2 * jnp.einsum("ntk,nsk->nts", fixed, centre_nsk)
        own_nts = index_nt[..., None] == document_s
        return jnp.where(real_nt, jnp.argmin(jnp.where(own_nts, far_nts, jnp.inf), axis=-1), slots)

    def step(_, centre_nsk):
        member_nt = assign(centre_nsk)
        filled_ns = jnp.any(member_nt[..., None] == jnp.arange(slots), axis=1)
        return jnp.where(filled_ns[..., None], mean_by(fixed, member_nt, slots), centre_nsk)

    member_nt = assign(jax.lax.fori_loop(0, iterations, step, centre_nsk))
    mean_nsk = mean_by(q.astype(fixed.dtype), member_nt, slots).astype(q.dtype)
    there_ns = jnp.where(length_nd[:, document_s] > 0, document_s + 1, 0)
    segments_nt = jnp.where(real_nt, index_nt + 1, 0)
    o_nsv = attention(mean_nsk[:, :, None], k[:, :, None], v[:, :, None], causal=False, q_segments_bt=there_ns, k_segments_bs=segments_nt)[:, :, 0]
    o_ntv = jnp.take_along_axis(jnp.pad(o_nsv, ((0, 0), (0, 1), (0, 0))), member_nt[..., None], axis=1)
    return jnp.swapaxes(o_ntv.reshape(batch, heads, length, -1), 1, 2)
