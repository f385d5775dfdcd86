"""Exact Jaccard similarity of candidate pairs."""

import numpy as np


def jaccard(hash_s: np.ndarray, start_d: np.ndarray, pair_p2: np.ndarray) -> np.ndarray:
    """|A ∩ B| / |A ∪ B| of the shingle sets of each pair of documents, (P,) float64; 0 where both are empty.

    hash_s, start_d: from shingles(); only the documents of some pair are looked at. Sets that hold different windows under one
    32-bit hash count too high, by about |A|·|B|·2^-32 shingles: less than one for documents of 65,000 words.
    """
    sets = {d: as_set(hash_s[start_d[d] : start_d[d + 1]]) for d in np.unique(pair_p2).tolist()}
    return np.array([overlap(sets[i], sets[j]) for i, j in pair_p2.tolist()], np.float64)


def as_set(hash_s: np.ndarray) -> np.ndarray:
    """The different hashes, ascending."""
    ordered = np.sort(hash_s)
    return ordered[np.r_[True, ordered[1:] != ordered[:-1]]] if len(ordered) else ordered


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """The Jaccard similarity of two results of as_set()."""
    small, large = (one, other) if len(one) < len(other) else (other, one)
    if not len(small):
        return 0.0
    common = np.count_nonzero(large[np.minimum(np.searchsorted(large, small), len(large) - 1)] == small)
    return common / (len(one) + len(other) - common)
