"""Spherical k-means in JAX.

Letters: d document, e embedding dimension, c cluster.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_BLOCK = 2048


def normalised(embedding_de: np.ndarray) -> np.ndarray:
    """Rows of norm 1, float32. Raises ValueError for rows that are zero or not finite."""
    x_de = np.asarray(embedding_de, np.float32)
    norm_d = np.linalg.norm(x_de, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norm_d[:, 0]) & (norm_d[:, 0] > 0)))
    if len(bad):
        raise ValueError(f"embedding {bad[0]} is zero or not finite: a cosine needs a direction")
    return x_de / norm_d


def kmeans(embedding_de: np.ndarray, clusters: int, *, iterations: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(centre_ce of norm 1, label_d): maximises Σ_d x_d · centre_{label_d} over unit vectors (Dhillon & Modha 2001).

    Starts from documents drawn in turn with probability ∝ 1 − max_c cos (k-means++); a cluster that loses all its members keeps its centre.
    The same seed gives the same clusters. Memory: two copies of the embeddings, and 2,048 documents' similarities to all centres. Raises
    ValueError for fewer than 1 or more clusters than documents.
    """
    if not 1 <= clusters <= len(embedding_de):
        raise ValueError(f"clusters={clusters} of {len(embedding_de)} documents: give 1 to that many")
    x_de = jnp.asarray(normalised(embedding_de))
    centre_ce, label_d = _kmeans(x_de, jax.random.key(seed), clusters, iterations)
    return np.asarray(centre_ce), np.asarray(label_d)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _kmeans(x_de, key, clusters, iterations):
    block = min(_BLOCK, len(x_de))
    blocks_nbe = jnp.pad(x_de, ((0, -len(x_de) % block), (0, 0))).reshape(-1, block, x_de.shape[1])

    def nearest(centre_ce):
        def label(x_be):
            return jnp.argmax(jnp.matmul(x_be, centre_ce.T, precision="highest"), axis=1)

        return jax.lax.map(label, blocks_nbe).ravel()[: len(x_de)]

    def seed_one(c, carry):
        centre_ce, best_d, key = carry
        key, draw = jax.random.split(key)
        far_d = jnp.log(jnp.maximum(1 - best_d, 1e-9))
        chosen_e = x_de[jax.random.categorical(draw, far_d)]
        return centre_ce.at[c].set(chosen_e), jnp.maximum(best_d, x_de @ chosen_e), key

    start = jnp.zeros((clusters, x_de.shape[1])), jnp.zeros(len(x_de)), key
    centre_ce, _, _ = jax.lax.fori_loop(0, clusters, seed_one, start)

    def improve(_, centre_ce):
        label_d = nearest(centre_ce)
        sum_ce = jax.ops.segment_sum(x_de, label_d, clusters)
        norm_c1 = jnp.linalg.norm(sum_ce, axis=1, keepdims=True)
        return jnp.where(norm_c1 > 1e-6, sum_ce / jnp.maximum(norm_c1, 1e-6), centre_ce)

    centre_ce = jax.lax.fori_loop(0, iterations, improve, centre_ce)
    return centre_ce, nearest(centre_ce)
