"""Byte n-gram models: the baselines that a language model has to beat."""

import numpy as np


def ngram_bits_per_byte(train: bytes, held_out: bytes, order: int) -> float:
    """Bits per byte that an interpolated n-gram model of `train` needs for `held_out`; order 2 is a bigram, 3 a trigram.

    Witten-Bell smoothing, from one byte of context to the next:
        p_0(x) = 1/256,   p_k(x | h) = (c(h x) + u(h) · p_{k-1}(x | h')) / (c(h) + u(h)),
    where h holds k-1 bytes, h' drops its first, c counts in `train` and u(h) is the number of distinct bytes seen after h; an
    unseen h leaves p_{k-1}. The first bytes of `held_out` use the context there is. Returns -mean log2 p (bits per byte).

    Raises ValueError for an order outside 1..7 or an empty text.
    """
    if not 1 <= order <= 7:
        raise ValueError(f"order={order}: an n-gram model here takes 1 to 7")
    if not train or not held_out:
        raise ValueError("an n-gram model needs a non-empty train and a non-empty held_out text")
    probability_t = np.full(len(held_out), 1 / 256)
    for k in range(1, order + 1):
        grams, counts = np.unique(_grams(train, k), return_counts=True)
        contexts, first = np.unique(grams >> np.uint64(8), return_index=True)
        context_counts = np.add.reduceat(counts, first) if len(counts) else counts
        followers = np.diff(first, append=len(grams))
        query_t = _grams(held_out, k)
        context_t = query_t >> np.uint64(8)
        seen_t, distinct_t = _lookup(contexts, context_counts, context_t), _lookup(contexts, followers, context_t)
        hits_t, lower_t = _lookup(grams, counts, query_t), probability_t[k - 1:]
        total_t = np.maximum(seen_t + distinct_t, 1)
        probability_t[k - 1:] = np.where(seen_t > 0, (hits_t + distinct_t * lower_t) / total_t, lower_t)
    return float(-np.mean(np.log2(probability_t)))


def _grams(text: bytes, k: int) -> np.ndarray:
    """The k-byte windows of `text` as big-endian integers, shape (len(text) - k + 1,)."""
    values = np.frombuffer(text, np.uint8).astype(np.uint64)
    size = max(len(values) - k + 1, 0)
    codes = np.zeros(size, np.uint64)
    for offset in range(k):
        codes = (codes << np.uint64(8)) | values[offset:offset + size]
    return codes


def _lookup(keys: np.ndarray, values: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """values[i] where keys[i] == query, 0 where no key is; `keys` ascends."""
    if not len(keys):
        return np.zeros(len(queries), np.int64)
    index = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[index] == queries, values[index], 0)
