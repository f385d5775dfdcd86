"""Texts to hashed word n-grams.

Letters: d document, s shingle (a window of n words), w word.
"""

from collections.abc import Sequence

import numpy as np

_FOLD = bytes(c + 32 if 65 <= c <= 90 else c if 48 <= c <= 57 or 97 <= c <= 122 or c >= 128 else 32 for c in range(256))
_MASK = np.array([0] + [(1 << 8 * length) - 1 for length in range(1, 8)] + [(1 << 64) - 1], np.uint64)
_ODD = np.random.RandomState(5).randint(0, 1 << 63, 64, np.uint64) * np.uint64(2) + np.uint64(1)
_WORD, _MIX, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93), np.uint64(32)


def shingles(texts: Sequence[bytes], n: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """(hash_s uint32, start_d int64 (D+1,)): document d has the shingles hash_s[start_d[d]:start_d[d+1]], one a window of n words.

    A word is a run of ASCII letters, digits and bytes above 127; upper case is folded, everything else separates. A document of
    fewer than n words has one shingle, of all its words; one without words has none. Equal windows have equal hashes; different
    ones collide with probability 2^-32. Time: a few passes over the bytes and about twenty over the words; give some hundred
    kilobytes at a time, so that they stay in cache. Raises ValueError for n outside 1..64.
    """
    if not 1 <= n <= len(_ODD):
        raise ValueError(f"n={n}: a shingle has 1 to {len(_ODD)} words")
    hash_w, first_d = words(texts)
    size_d = np.diff(first_d)
    mixed_s = np.zeros(max(len(hash_w) - n + 1, 0), np.uint64)
    for j in range(n):
        mixed_s += hash_w[j : j + len(mixed_s)] * _ODD[j]
    inside_w = np.zeros(len(hash_w), bool)
    _mark(inside_w, first_d[:-1], np.maximum(size_d - n + 1, 0))
    short_d = np.flatnonzero((size_d > 0) & (size_d < n))
    if len(short_d):
        padded_w = np.zeros(len(hash_w), np.uint64)
        padded_w[: len(mixed_s)] = mixed_s
        for d in short_d:
            own_w = hash_w[first_d[d] : first_d[d + 1]]
            padded_w[first_d[d]] = np.sum(own_w * _ODD[: len(own_w)])
            inside_w[first_d[d]] = True
        mixed_s = padded_w
    mixed_s = mixed_s[inside_w[: len(mixed_s)]]
    mixed_s ^= mixed_s >> _HALF
    mixed_s *= _MIX
    count_d = np.where(size_d < n, np.minimum(size_d, 1), size_d - n + 1)
    return (mixed_s >> _HALF).astype(np.uint32), np.concatenate([[0], np.cumsum(count_d)])


def words(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """(hash_w uint64, first_d (D+1,)): the hashed words of all texts, and where each text's begin."""
    joined = b" ".join((b"", *texts, b"        ")).translate(_FOLD)
    data = np.frombuffer(joined, np.uint8)
    gap = data == 32
    edge = np.flatnonzero(gap[1:] != gap[:-1])
    edge += 1
    start_w, length_w = edge[0::2], edge[1::2] - edge[0::2]
    eight = np.ndarray((len(data) - 7,), "<u8", joined, strides=(1,))
    hash_w = (eight[start_w] & _MASK[np.minimum(length_w, 8)]) * _WORD
    hash_w ^= hash_w >> _HALF
    long_w, done = np.flatnonzero(length_w > 8), 8
    while len(long_w):
        part = eight[start_w[long_w] + done] & _MASK[np.minimum(length_w[long_w] - done, 8)]
        part = (hash_w[long_w] ^ part) * _MIX
        hash_w[long_w] = part ^ (part >> _HALF)
        done += 8
        long_w = long_w[length_w[long_w] > done]
    begin_d = np.cumsum([1, *(len(text) + 1 for text in texts)])
    return hash_w, np.searchsorted(start_w, begin_d)


def _mark(inside_w: np.ndarray, first_d: np.ndarray, count_d: np.ndarray) -> None:
    """Sets inside_w in the runs [first, first + count)."""
    change = np.zeros(len(inside_w) + 1, np.int8)
    np.add.at(change, first_d, (count_d > 0).astype(np.int8))
    np.add.at(change, first_d + count_d, -(count_d > 0).astype(np.int8))
    np.cumsum(change[:-1], out=change[:-1])
    inside_w |= change[:-1] > 0
