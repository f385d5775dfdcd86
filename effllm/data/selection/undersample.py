"""Undersampling against imbalance of classes or domains.

Letters: d document, c class.
"""

import jax
import jax.numpy as jnp
import numpy as np

from effllm.data.selection.check import chosen
from effllm.data.selection.gumbel import gumbel_topk


def random_undersample(key: jax.Array, class_d: np.ndarray, ratio: float = 1.0) -> np.ndarray:
    """keep_d: of every class at most ratio · (size of the smallest) documents, drawn uniformly (survey §4.2; Prusa et al. 2015).

    ratio=1 balances the classes; larger ones leave more of the majority. Raises ValueError for a ratio below 1.
    """
    return importance_undersample(key, class_d, np.zeros(len(class_d)), ratio)


def importance_undersample(key: jax.Array, class_d: np.ndarray, logw_d: np.ndarray, ratio: float = 1.0) -> np.ndarray:
    """keep_d: the same limits, but within a class documents are drawn with p ∝ exp(logw): those that inform the model more stay more often.

    logw: for example the log of the loss, of el2n() or of a quality score. Raises ValueError for a ratio below 1 or arrays of different lengths.
    """
    if ratio < 1:
        raise ValueError(f"ratio={ratio}: a class keeps at least as many documents as the smallest has; give 1 or more")
    class_d, logw_d = np.asarray(class_d), np.asarray(logw_d, np.float32)
    if class_d.shape != logw_d.shape:
        raise ValueError(f"{len(class_d)} classes and {len(logw_d)} weights: give one of each for every document")
    classes, size_c = np.unique(class_d, return_counts=True)
    limit, kept = int(ratio * size_c.min()) if len(size_c) else 0, []
    for c, draw in zip(classes, jax.random.split(key, max(len(classes), 1))):
        member = np.flatnonzero(class_d == c)
        kept.append(member[np.asarray(gumbel_topk(draw, jnp.asarray(logw_d[member]), min(limit, len(member))))])
    return chosen(np.concatenate(kept) if kept else np.zeros(0, int), len(class_d))
