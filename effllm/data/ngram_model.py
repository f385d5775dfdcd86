"""A byte n-gram model that is fitted once and scores many texts."""

from dataclasses import dataclass

import numpy as np

from effllm.data.ngram import _grams, _lookup


@dataclass(frozen=True, eq=False)
class NgramModel:
    """The interpolated Witten-Bell model of ngram_bits_per_byte(), with its counts kept: model(text) is bits per byte.

    levels[k-1]: (grams, counts, contexts, context counts, followers) of order k, sorted. Memory: 40 bytes a distinct gram.
    """

    levels: tuple[tuple[np.ndarray, ...], ...]

    @classmethod
    def fit(cls, text: bytes, order: int = 5) -> "NgramModel":
        """The model of `text`. Raises ValueError for an order outside 1..7 or an empty text."""
        if not 1 <= order <= 7:
            raise ValueError(f"order={order}: an n-gram model here takes 1 to 7")
        if not text:
            raise ValueError("an n-gram model needs a non-empty text")
        return cls(tuple(_level(text, k) for k in range(1, order + 1)))

    def bits(self, text: bytes) -> np.ndarray:
        """-log2 p of each byte given those before it, shape (len(text),)."""
        probability_t = np.full(len(text), 1 / 256)
        for k, (grams, counts, contexts, totals, followers) in enumerate(self.levels, 1):
            query_t = _grams(text, k)
            context_t = query_t >> np.uint64(8)
            seen_t, distinct_t = _lookup(contexts, totals, context_t), _lookup(contexts, followers, context_t)
            lower_t = probability_t[k - 1:]
            mixed_t = (_lookup(grams, counts, query_t) + distinct_t * lower_t) / np.maximum(seen_t + distinct_t, 1)
            probability_t[k - 1:] = np.where(seen_t > 0, mixed_t, lower_t)
        return -np.log2(probability_t)

    def __call__(self, text: str | bytes) -> float:
        """Mean bits per byte; 8, those of a uniform guess, for the empty text."""
        data = text.encode() if isinstance(text, str) else text
        return float(np.mean(self.bits(data))) if data else 8.0


def _level(text: bytes, k: int) -> tuple[np.ndarray, ...]:
    grams, counts = np.unique(_grams(text, k), return_counts=True)
    contexts, first = np.unique(grams >> np.uint64(8), return_index=True)
    totals = np.add.reduceat(counts, first) if len(counts) else counts
    return grams, counts, contexts, totals, np.diff(first, append=len(grams))
