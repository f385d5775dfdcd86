"""Softmax attention through landmarks, by the Nyström method (Xiong et al. 2021, arXiv 2102.03902)."""

import jax
import jax.numpy as jnp

from effllm.ops.attention import attention
from effllm.ops.documents import Documents, means


def nystrom(
    q_bthk: jax.Array, k_bthk: jax.Array, v_bthv: jax.Array, found: Documents, *, landmarks: int, iterations: int = 6, shared_scale: bool = False
) -> jax.Array:
    """softmax(q k̃ᵀ) · softmax(q̃ k̃ᵀ)⁺ · softmax(q̃ kᵀ) v, scores times K^(-1/2), within each document; (B, T, H, V).

    A document of n tokens has min(n, M) landmarks q̃, k̃: means of queries and keys over M equal stretches of it (see ops.documents.means), so
    that n ≤ M is exact attention up to the pseudo-inverse, which `iterations` steps approximate. O(T·M·K) time, O(T + M²) memory.
    """
    token_segments, slot_segments = found.segments_bt, filled_slots(found, landmarks)
    q_bmhk, k_bmhk = (means(x, found, landmarks) for x in (q_bthk, k_bthk))
    inner_bmhv = attention(q_bmhk, k_bthk, v_bthv, causal=False, q_segments_bt=slot_segments, k_segments_bs=token_segments)
    batch, _, heads, width = q_bmhk.shape
    shape = batch, found.count, landmarks, heads, -1
    q, k, v = (x.reshape(shape).astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (q_bmhk, k_bmhk, inner_bmhv))
    there_bnm = (slot_segments > 0).reshape(shape[:3])
    both = there_bnm[:, :, None, :, None] & there_bnm[:, :, None, None, :]
    scores = width**-0.5 * jnp.einsum("bnlhk,bnmhk->bnhlm", q, k)
    kernel = jnp.where(both, jax.nn.softmax(jnp.where(both, scores, jnp.finfo(scores.dtype).min), axis=-1), 0)
    solved = jnp.einsum("bnhlm,bnmhv->bnlhv", pseudo_inverse(kernel, iterations, shared_scale), v).reshape(inner_bmhv.shape).astype(v_bthv.dtype)
    return attention(q_bthk, k_bmhk, solved, causal=False, q_segments_bt=token_segments, k_segments_bs=slot_segments)


def filled_slots(found: Documents, landmarks: int) -> jax.Array:
    """(B, N·M) the document of each landmark, from 1; 0 where a short document leaves it empty."""
    m, n_bn1 = jnp.arange(landmarks), found.length_bn[..., None]
    # Landmark m takes the ranks r with r·M // n = m: those in [m·n/M, (m+1)·n/M).
    there_bnm = -(-m * n_bn1 // landmarks) < -(-(m + 1) * n_bn1 // landmarks)
    return jnp.where(there_bnm, jnp.arange(1, found.count + 1)[:, None], 0).reshape(n_bn1.shape[0], -1)


def pseudo_inverse(a: jax.Array, iterations: int, shared_scale: bool = False) -> jax.Array:
    """The Moore-Penrose inverse of non-negative (…, M, M) matrices whose rows sum to at most 1, by Z ← Z (13 − A Z (15 − A Z (7 − A Z))) / 4.

    Z begins at Aᵀ over A's largest column sum (Razavi et al. 2014), over the largest of all the matrices where `shared_scale`. Rows and columns of
    zeros stay zero.
    """
    one = jnp.eye(a.shape[-1], dtype=a.dtype)
    largest = jnp.max(jnp.sum(a, axis=-2), axis=-1)[..., None, None]
    largest = jnp.max(largest) if shared_scale else largest
    z = jnp.swapaxes(a, -1, -2) / jnp.where(largest == 0, 1, largest)
    for _ in range(iterations):
        az = a @ z
        z = 0.25 * z @ (13 * one - az @ (15 * one - az @ (7 * one - az)))
    return z
