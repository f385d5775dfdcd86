"""A Bloom filter: which keys of an endless stream were seen before, in fixed memory."""

import math

import numpy as np

_BATCH_MIX = np.uint64(0x9E3779B97F4A7C15)


class Bloom:
    """Answers "seen" for every key seen, and for one never seen with probability ≤ `error` while at most `capacity` keys are in it (Bloom 1970).

    m = -capacity·ln(error)/ln(2)² bits and k = m/capacity·ln 2 positions, h_1 + i·h_2 mod m (Kirsch & Mitzenmacher 2008). Keys are uint64,
    such as exact.digest(text). Raises ValueError for a capacity or an error out of range.
    """

    def __init__(self, capacity: int, error: float = 1e-6):
        if capacity < 1 or not 0 < error < 1:
            raise ValueError(f"Bloom(capacity={capacity}, error={error}): capacity is positive and error lies between 0 and 1")
        self.bits = max(64, math.ceil(-capacity * math.log(error) / math.log(2) ** 2))
        self.hashes = max(1, round(self.bits / capacity * math.log(2)))
        self.table = np.zeros(-(-self.bits // 8), np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self.table.nbytes

    def seen(self, keys: np.ndarray) -> np.ndarray:
        """For each key, whether it was added before."""
        byte_nk, bit_nk = self._positions(np.asarray(keys, np.uint64))
        return np.all(self.table[byte_nk] & bit_nk, axis=1)

    def add(self, keys: np.ndarray) -> np.ndarray:
        """Adds the keys and says for each whether it was there before: earlier, or earlier in `keys`."""
        keys = np.asarray(keys, np.uint64)
        before = self.seen(keys)
        _, first = np.unique(keys, return_index=True)
        again = np.ones(len(keys), bool)
        again[first] = False
        byte_nk, bit_nk = self._positions(keys)
        np.bitwise_or.at(self.table, byte_nk, bit_nk)
        return before | again

    def _positions(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        step = (keys * _BATCH_MIX) ^ (keys >> np.uint64(31))
        step = (step * np.uint64(0xD6E8FEB86659FD93)) | np.uint64(1)
        at_nk = (keys[:, None] + np.arange(self.hashes, dtype=np.uint64) * step[:, None]) % np.uint64(self.bits)
        return (at_nk >> np.uint64(3)).astype(np.int64), (np.uint8(1) << (at_nk & np.uint64(7)).astype(np.uint8))
