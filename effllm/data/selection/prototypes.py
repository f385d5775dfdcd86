"""Prototype distance: easy examples lie near the centre of their cluster.

Letters: d document, e embedding dimension, c cluster.
"""

import numpy as np

from effllm.data.dedup.kmeans import kmeans, normalised


def prototype_distance(embedding_de: np.ndarray, clusters: int, *, iterations: int = 20, seed: int = 0) -> np.ndarray:
    """1 − cos(x_d, centroid of its cluster), (D,): the self-supervised score of Sorscher et al. 2022 (arXiv 2206.14486).

    Keep the farthest where data are plenty and the nearest where they are few: prune(distance, keep, "top" or "bottom"). Raises what kmeans() raises.
    """
    centre_ce, label_d = kmeans(embedding_de, clusters, iterations=iterations, seed=seed)
    return 1 - np.sum(normalised(embedding_de) * centre_ce[label_d], axis=1)
