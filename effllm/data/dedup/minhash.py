"""MinHash signatures in NumPy.

Letters: d document, s shingle, k permutation.
"""

import numpy as np

EMPTY = np.uint32(0xFFFFFFFF)
_BLOCK = 1 << 11


def permutations(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(a_k odd, b_k), uint32: the permutations h → a_k·h + b_k mod 2^32 of `count` hash functions.

    They are those of datasketch 2's "affine32" with the same seed. Raises ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"permutations={count}: give a positive number")
    random = np.random.RandomState(seed)
    a_k = random.randint(0, 1 << 31, count, np.uint32) * np.uint32(2) + np.uint32(1)
    return a_k, random.randint(0, 1 << 32, count, np.uint32)


def mix(hash_s: np.ndarray) -> np.ndarray:
    """The finalizer of MurmurHash3 on uint32: a bijection after which every bit depends on every bit."""
    hash_s = hash_s ^ (hash_s >> np.uint32(16))
    hash_s = hash_s * np.uint32(0x85EBCA6B)
    hash_s = hash_s ^ (hash_s >> np.uint32(13))
    hash_s = hash_s * np.uint32(0xC2B2AE35)
    return hash_s ^ (hash_s >> np.uint32(16))


def minhash(hash_s: np.ndarray, start_d: np.ndarray, a_k: np.ndarray, b_k: np.ndarray) -> np.ndarray:
    """signature_dk = min over the shingles s of d of a_k·mix(hash_s) + b_k mod 2^32 (Broder 1997); EMPTY where d has none.

    For two documents with shingle sets A and B, each entry agrees with probability J = |A∩B| / |A∪B|, so the share of agreeing
    entries estimates J with standard error sqrt(J(1-J)/K). hash_s: uint32; start_d: (D+1,); the result: (D, K) uint32.
    """
    mixed_s, signature_dk = mix(hash_s), np.full((len(start_d) - 1, len(a_k)), EMPTY)
    a_k1, b_k1 = a_k[:, None], b_k[:, None]
    room = np.empty(len(a_k) * _BLOCK, np.uint32)
    start = start_d.tolist()
    for d, (first, last) in enumerate(zip(start, start[1:])):
        for at in range(first, last, _BLOCK):
            part = mixed_s[at : min(at + _BLOCK, last)]
            hashed_ks = room[: len(a_k) * len(part)].reshape(len(a_k), len(part))
            np.multiply(a_k1, part, out=hashed_ks)
            np.add(hashed_ks, b_k1, out=hashed_ks)
            np.minimum(signature_dk[d], hashed_ks.min(1), out=signature_dk[d])
    return signature_dk


def similarity(signature_dk: np.ndarray, other_dk: np.ndarray) -> np.ndarray:
    """The estimate of J for pairs of rows: the share of equal entries, (D,) float64."""
    return np.mean(signature_dk == other_dk, axis=-1)
