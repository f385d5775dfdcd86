"""SemDeDup: duplicates in meaning, by embeddings.

Letters: d document, e embedding dimension, c cluster.
"""

import jax
import jax.numpy as jnp
import numpy as np

from effllm.data.dedup.kmeans import kmeans, normalised

_BLOCK = 2048


def semdedup(embedding_de: np.ndarray, *, clusters: int, epsilon: float = 0.05, prefer: str = "hard", iterations: int = 20, seed: int = 0) -> np.ndarray:
    """keep_d (D,) bool: without what lies nearer than `epsilon` to something kept before (Abbas et al. 2023, arXiv 2303.09540).

    Spherical k-means into `clusters`; within each, documents in order of preference, and j goes if max_{i before j} cos(x_i, x_j) > 1 − epsilon,
    i dropped or not, as published. prefer="hard": farthest from the centroid first (the paper's choice), "easy": nearest first, "first": as given.
    Any embedding will do: the mean of a model's hidden states, a bag of hashed words. Memory: `_BLOCK` rows of a cluster's similarities.
    Raises ValueError for an epsilon outside [0, 2], more clusters than documents, or an unknown preference.
    """
    if not 0 <= epsilon <= 2:
        raise ValueError(f"epsilon={epsilon}: a cosine distance lies between 0 and 2")
    if prefer not in ("hard", "easy", "first"):
        raise ValueError(f"prefer={prefer!r}: hard, easy or first")
    centre_ce, label_d = kmeans(embedding_de, clusters, iterations=iterations, seed=seed)
    x_de = normalised(embedding_de)
    towards_d = np.sum(x_de * centre_ce[label_d], axis=1)
    place_d = {"hard": towards_d, "easy": -towards_d, "first": np.zeros(len(x_de))}[prefer]
    keep_d = np.ones(len(x_de), bool)
    for cluster in range(clusters):
        member = np.flatnonzero(label_d == cluster)
        member = member[np.lexsort((member, place_d[member]))]
        keep_d[member] = nearest_before(x_de[member]) <= 1 - epsilon
    return keep_d


def d4(embedding_de: np.ndarray, *, clusters: int, epsilon: float = 0.05, keep: float = 0.8, iterations: int = 20, seed: int = 0) -> np.ndarray:
    """keep_d: SemDeDup, then a new clustering of the rest, of which the share `keep` farthest from its centroids stays (Tirumala et al. 2023, arXiv 2308.12284).

    The second step is prototype pruning (Sorscher et al. 2022, arXiv 2206.14486) on what the first left, so that clusters of
    duplicates do not decide what is prototypical. Raises ValueError for a share outside (0, 1].
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep}: give the share that stays, in (0, 1]")
    keep_d = semdedup(embedding_de, clusters=clusters, epsilon=epsilon, iterations=iterations, seed=seed)
    left = np.flatnonzero(keep_d)
    centre_ce, label_d = kmeans(embedding_de[left], min(clusters, len(left)), iterations=iterations, seed=seed + 1)
    towards_d = np.sum(normalised(embedding_de[left]) * centre_ce[label_d], axis=1)
    far = np.lexsort((left, towards_d))[: max(1, round(keep * len(left)))]
    out_d = np.zeros(len(keep_d), bool)
    out_d[left[far]] = True
    return out_d


def nearest_before(x_de: np.ndarray) -> np.ndarray:
    """max_{i<j} x_i · x_j for every row j, −∞ for the first; a block at a time, filled up to a power of two so that few shapes compile."""
    best_d = np.full(len(x_de), -np.inf)
    block = min(_BLOCK, 1 << max(6, (len(x_de) - 1).bit_length()))
    padded_de = np.pad(x_de, ((0, -len(x_de) % block), (0, 0)))
    for at in range(0, len(x_de), block):
        here = slice(at, min(at + block, len(x_de)))
        for before in range(0, at + 1, block):
            best = _block_best(padded_de[at : at + block], padded_de[before : before + block], at, before)
            best_d[here] = np.maximum(best_d[here], np.asarray(best)[: here.stop - at])
    return best_d


@jax.jit
def _block_best(rows_de, before_de, at, start):
    cosine = jnp.matmul(rows_de, before_de.T, precision="highest")
    earlier = (start + jnp.arange(before_de.shape[0]))[None] < (at + jnp.arange(rows_de.shape[0]))[:, None]
    return jnp.max(jnp.where(earlier, cosine, -jnp.inf), axis=1)
