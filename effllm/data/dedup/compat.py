"""Signatures as datatrove 0.10 computes them, for indexes that it wrote."""

import numpy as np

PRIME = np.uint64((1 << 61) - 1)


def datatrove_signature(hash_s: np.ndarray, bands: int = 14, rows: int = 8, seed: int = 1) -> np.ndarray:
    """signature_br (bands, rows) uint64 = min_s ((a·hash_s + b mod 2^64) mod 2^61 − 1), with the parameters that `seed` gives there.

    hash_s: the 64-bit hashes (xxHash64 or the first 8 bytes of SHA-1) of its word n-grams, which its own text normalisation and
    tokenizer make. The product wraps at 2^64 before the modulus. Raises ValueError where there is no shingle.
    """
    if not len(hash_s):
        raise ValueError("a document without shingles has no signature")
    random, count = np.random.RandomState(seed), bands * rows
    a_k = random.randint(1, PRIME, dtype=np.uint64, size=(1, count))[0]
    b_k = random.randint(0, PRIME, dtype=np.uint64, size=(1, count))[0]
    signature_k = np.full(count, np.iinfo(np.uint64).max)
    for k in range(count):
        signature_k[k] = np.min((np.asarray(hash_s, np.uint64) * a_k[k] + b_k[k]) % PRIME)
    return signature_k.reshape(bands, rows)
