"""Exact Jaccard similarity of candidate pairs."""

import numpy as np


def shingle_sets(hash_s: np.ndarray, start_d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same with every document's shingles sorted and each once: what jaccard() needs."""
    owner_s = np.repeat(np.arange(len(start_d) - 1, dtype=np.uint64), np.diff(start_d))
    key_s = np.unique((owner_s << np.uint64(32)) | hash_s)
    size_d = np.bincount((key_s >> np.uint64(32)).astype(np.int64), minlength=len(start_d) - 1)
    return (key_s & np.uint64(0xFFFFFFFF)).astype(np.uint32), np.concatenate([[0], np.cumsum(size_d)])


def jaccard(hash_s: np.ndarray, start_d: np.ndarray, pair_p2: np.ndarray) -> np.ndarray:
    """|A ∩ B| / |A ∪ B| of the shingle sets of each pair of documents, (P,) float64; 0 where both are empty.

    hash_s, start_d: from shingle_sets(). Sets that hold different windows under one 32-bit hash count too high, by about
    |A|·|B|·2^-32 shingles: less than one for documents of 65,000 words.
    """
    similarity_p = np.zeros(len(pair_p2))
    for p, (i, j) in enumerate(pair_p2.tolist()):
        a, b = hash_s[start_d[i] : start_d[i + 1]], hash_s[start_d[j] : start_d[j + 1]]
        if len(a) and len(b):
            a, b = (a, b) if len(a) < len(b) else (b, a)
            at = np.searchsorted(b, a)
            common = np.count_nonzero(b[np.minimum(at, len(b) - 1)] == a)
            similarity_p[p] = common / (len(a) + len(b) - common)
    return similarity_p
