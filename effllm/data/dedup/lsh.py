"""Locality-sensitive hashing of signatures: which pairs are worth comparing.

Letters: d document, b band, r row of a band, p pair.
"""

import numpy as np

from effllm.data.dedup.minhash import EMPTY, mix

KEY_ODD = np.random.RandomState(7).randint(0, 1 << 31, (2, 256), np.uint32) * np.uint32(2) + np.uint32(1)
_ALL_PAIRS = 16


def collision_probability(similarity: float | np.ndarray, bands: int, rows: int) -> float | np.ndarray:
    """1 − (1 − J^rows)^bands: that two documents of similarity J share a band (Leskovec et al., Mining of Massive Datasets, §3.4)."""
    return 1 - (1 - similarity**rows) ** bands


def optimal_bands(permutations: int, threshold: float) -> tuple[int, int]:
    """(bands, rows), bands·rows ≤ permutations, with the least ∫_0^t P(J) dJ + ∫_t^1 (1 − P(J)) dJ, as datasketch chooses.

    Raises ValueError for a threshold outside (0, 1).
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold}: give a similarity between 0 and 1, both excluded")
    low, high = np.linspace(0, threshold, 1001), np.linspace(threshold, 1, 1001)

    def error(bands, rows):
        missed = np.trapezoid(1 - collision_probability(high, bands, rows), high)
        return np.trapezoid(collision_probability(low, bands, rows), low) + missed

    return min(((b, r) for b in range(1, permutations + 1) for r in range(1, permutations // b + 1)), key=lambda br: error(*br))


def band_keys(signature_dk: np.ndarray, bands: int) -> np.ndarray:
    """key_db (D, bands) uint64: equal for documents whose signatures agree in all rows of a band.

    Different bands' rows give equal keys with probability 2^-64. What does not fill a band at the end of the signature is not
    used. Raises ValueError if a band would have no row, or more than 256.
    """
    rows = signature_dk.shape[1] // max(bands, 1)
    if bands < 1 or not 1 <= rows <= KEY_ODD.shape[1]:
        raise ValueError(f"bands={bands} of {signature_dk.shape[1]} permutations: a band takes 1 to {KEY_ODD.shape[1]} rows")
    signature_dbr = signature_dk[:, : bands * rows].reshape(-1, bands, rows)
    high_db, low_db = (mix(np.sum(signature_dbr * odd, axis=-1, dtype=np.uint32)).astype(np.uint64) for odd in KEY_ODD[:, :rows])
    return (high_db << np.uint64(32)) | low_db


def candidate_pairs(key_db: np.ndarray, used_d: np.ndarray | None = None) -> np.ndarray:
    """pair_p2 (P, 2) int64, i < j, each once, sorted: documents with an equal key in some band.

    Up to 16 documents of one key give all their pairs; more give each one's pair with the first and with the one before, so
    that a page that occurs a million times costs two million pairs. `used_d` leaves documents out: those without shingles.
    """
    member = np.arange(len(key_db)) if used_d is None else np.flatnonzero(used_d)
    found = [np.zeros((0, 2), np.int64)]
    for key_d in key_db[member].T:
        order = np.argsort(key_d, kind="stable")
        found.append(member[order[group_pairs(key_d[order])]])
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def group_pairs(key_s: np.ndarray) -> np.ndarray:
    """(P, 2) positions in the ascending keys whose keys are equal: all pairs of a small group, first and neighbour of a large one."""
    if len(key_s) < 2:
        return np.zeros((0, 2), np.int64)
    first = np.flatnonzero(np.r_[True, key_s[1:] != key_s[:-1]])
    size = np.diff(np.r_[first, len(key_s)])
    begin_s, size_s = np.repeat(first, size), np.repeat(size, size)
    at = np.arange(len(key_s))
    found = [np.stack([begin_s, at], 1)[at > begin_s], np.stack([at - 1, at], 1)[(size_s > 2) & (at > begin_s + 1)]]
    for back in range(2, _ALL_PAIRS - 1):
        reaches = (size_s <= _ALL_PAIRS) & (at - begin_s > back)
        if not reaches.any():
            break
        found.append(np.stack([at - back, at], 1)[reaches])
    return np.concatenate(found)


def has_shingles(signature_dk: np.ndarray) -> np.ndarray:
    """used_d: whether a document had any shingle."""
    return ~np.all(signature_dk == EMPTY, axis=1)
