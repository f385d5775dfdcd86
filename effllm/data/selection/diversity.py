"""Diverse subsets: k-center and determinantal point processes, greedily.

Letters: d document, e embedding dimension, k chosen.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from effllm.data.selection.check import check_count, check_embeddings


def k_center(embedding_de: np.ndarray, count: int, first: int = 0) -> np.ndarray:
    """(count,) int64: each next document is the one farthest (Euclidean) from all chosen (Gonzalez 1985; Sener & Savarese 2018, arXiv 1708.00489).

    The largest distance of any document to its nearest chosen one is at most twice the best possible. Raises ValueError for a count or a
    first out of range, or an embedding that is not finite.
    """
    check_count(count, len(embedding_de))
    check_count(first + 1, len(embedding_de))
    check_embeddings(np.asarray(embedding_de))
    return np.asarray(_k_center(jnp.asarray(embedding_de, jnp.float32), count, first), np.int64)


@functools.partial(jax.jit, static_argnums=1)
def _k_center(x_de, count, first):
    def add(carry, _):
        near_d, latest = carry
        near_d = jnp.minimum(near_d, jnp.sum((x_de - x_de[latest]) ** 2, axis=1))
        near_d = near_d.at[latest].set(-1.0)
        return (near_d, jnp.argmax(near_d)), latest

    return jax.lax.scan(add, (jnp.full(len(x_de), jnp.inf), jnp.asarray(first)), None, count)[1]


def dpp_greedy(embedding_de: np.ndarray, quality_d: np.ndarray, count: int) -> np.ndarray:
    """(count,) int64: greedy maximisation of log det L_S, L_ij = q_i q_j ⟨x_i, x_j⟩ (Chen et al. 2018, arXiv 1709.05135).

    Quality and diversity at once: with orthogonal embeddings the highest qualities, with equal qualities the least similar. Embeddings are
    normalised; no matrix of D² entries is made, the cost is O(D·count²). Ends early where what is left adds nothing (the rank is reached).
    Raises ValueError for a count out of range, a quality that is not positive, or an embedding that is zero or not finite.
    """
    check_count(count, len(embedding_de))
    if not (np.asarray(quality_d) > 0).all():
        raise ValueError("every quality must be positive: a document of quality 0 is best left out")
    x_de = np.asarray(embedding_de, np.float64)
    check_embeddings(x_de)
    if len(zero := np.flatnonzero(~x_de.any(axis=1))):
        raise ValueError(f"embedding {zero[0]} is zero: a cosine needs a direction")
    x_de = x_de / np.linalg.norm(x_de, axis=1, keepdims=True) * np.asarray(quality_d, np.float64)[:, None]
    gain_d, basis_kd, out = np.sum(x_de**2, axis=1), np.zeros((0, len(x_de))), []
    while len(out) < count:
        best = int(np.argmax(gain_d))
        if gain_d[best] < 1e-10:
            break
        row_d = (x_de @ x_de[best] - basis_kd.T @ basis_kd[:, best]) / np.sqrt(gain_d[best])
        basis_kd = np.concatenate([basis_kd, row_d[None]])
        gain_d = gain_d - row_d**2
        out.append(best)
        gain_d[out] = -np.inf
    return np.array(out, np.int64)
