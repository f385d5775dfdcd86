"""Embeddings of documents for deduplication in meaning, without JAX.

Letters: h bucket of an n-gram, e embedding dimension.
"""

import abc
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from effllm.data.filters.classifier import hashed_ngrams

_SIGN = np.uint64(0x9E3779B97F4A7C15)


class Embedding(abc.ABC):
    """How a text becomes a vector: counts over the corpus if it needs them, then a function. A new one is a frozen dataclass with these two."""

    def count(self, texts: Iterable[str]) -> np.ndarray | None:
        """Counts over some texts, summed over the corpus for function(); None where nothing is counted."""
        return None

    @abc.abstractmethod
    def function(self, total: np.ndarray | None) -> Callable[[str], np.ndarray]:
        """text -> (E,) float32; zero for a text that it cannot place."""


@dataclass(frozen=True)
class HashedNgrams(Embedding):
    """x_e = Σ_h ±(1 + log n_h) · log(1 + D/D_h) over the word 1…order-grams, hashed to 2^bits buckets, each added with a sign to one of `dimension` places.

    n_h: occurrences in the text, D_h of D documents that hold h; so cosines are those of tf-idf vectors, up to about dimension^-½.
    Raises ValueError for a field out of range.
    """

    order: int = 2
    dimension: int = 512
    bits: int = 16

    def __post_init__(self):
        if not 1 <= self.order <= 5 or self.dimension < 1 or not 8 <= self.bits <= 24:
            raise ValueError(f"{self}: order is 1 to 5, dimension positive, bits 8 to 24")

    def count(self, texts):
        count_h = np.zeros((1 << self.bits) + 1, np.int64)
        for text in texts:
            count_h[hashed_ngrams(text, self.order, self.bits)[0]] += 1
            count_h[-1] += 1
        return count_h

    def function(self, total):
        weight_h = np.log1p(total[-1] / np.maximum(total[:-1], 1))
        mixed_h = np.arange(1 << self.bits, dtype=np.uint64) * _SIGN
        mixed_h ^= mixed_h >> np.uint64(29)
        mixed_h *= _SIGN
        weight_h *= np.where(mixed_h >> np.uint64(63), 1.0, -1.0)
        place_h = ((mixed_h >> np.uint64(20)) % np.uint64(self.dimension)).astype(np.int64)

        def embed(text: str) -> np.ndarray:
            at, count = hashed_ngrams(text, self.order, self.bits)
            return np.bincount(place_h[at], (1 + np.log(np.maximum(count, 1))) * weight_h[at], minlength=self.dimension).astype(np.float32)

        return embed
