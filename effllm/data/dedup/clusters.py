"""From pairs to clusters, and from clusters to what stays."""

import numpy as np


def components(count: int, pair_p2: np.ndarray) -> np.ndarray:
    """label_d (count,) int64: the smallest document of each document's connected component under `pair_p2`.

    Union–find over whole arrays: every round hooks the larger root of each pair onto the smaller and halves the paths, so that
    a chain of n takes O(log n) rounds. Raises ValueError for a pair outside 0 … count-1.
    """
    label_d = np.arange(count)
    if not len(pair_p2):
        return label_d
    if pair_p2.min() < 0 or pair_p2.max() >= count:
        raise ValueError(f"a pair names document {pair_p2.max()} of {count}: the pairs belong to another set of documents")
    i, j = pair_p2.T
    while True:
        low, high = np.minimum(label_d[i], label_d[j]), np.maximum(label_d[i], label_d[j])
        open_p = low != high
        if not open_p.any():
            return label_d
        i, j = i[open_p], j[open_p]
        np.minimum.at(label_d, high[open_p], low[open_p])
        while True:
            halved = label_d[label_d]
            if np.array_equal(halved, label_d):
                break
            label_d = halved


def best_of_each(label_d: np.ndarray, score_d: np.ndarray) -> np.ndarray:
    """keep_d: True for the document with the highest score of each cluster; of equal ones the first stays."""
    order = np.lexsort((np.arange(len(label_d)), -np.asarray(score_d, np.float64), label_d))
    first = np.r_[True, label_d[order][1:] != label_d[order][:-1]] if len(order) else np.zeros(0, bool)
    keep_d = np.zeros(len(label_d), bool)
    keep_d[order[first]] = True
    return keep_d
