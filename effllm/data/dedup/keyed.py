"""Deduplication by keys: what the runner needs to know of a method. A new one is a class with these four."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from effllm.data.dedup.exact import digest, normalise
from effllm.data.dedup.lsh import band_keys, has_shingles
from effllm.data.dedup.near import MinHash
from effllm.data.dedup.shingle import shingles
from effllm.data.dedup.simhash import BITS, hamming, simhash
from effllm.data.dedup.verify import as_set, overlap


class Keyed(abc.ABC):
    """Documents that share a key are candidates; candidates whose evidence is similar enough are duplicates."""

    @abc.abstractmethod
    def keys(self, texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """(key_db uint64 (D, bands), used_d): the keys of each document, and whether it takes part at all."""

    @property
    @abc.abstractmethod
    def bands(self) -> int:
        """Keys a document."""

    def evidence(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        """For each document an array of uint64 or uint32 that similar() compares."""
        return [np.zeros(0, np.uint32) for _ in texts]

    def similar(self, one: np.ndarray, other: np.ndarray) -> float | None:
        """The similarity of two documents, or None if they are no duplicates. Equal keys are enough unless a method says more."""
        return 1.0


@dataclass(frozen=True)
class Exact(Keyed):
    """The same bytes, or with `normalised` the same words without regard to case, accents and punctuation."""

    normalised: bool = False
    bands = 1

    def keys(self, texts):
        forms = [normalise(text) for text in texts] if self.normalised else texts
        return np.array([digest(form) for form in forms], np.uint64).reshape(-1, 1), np.array([bool(form) for form in forms], bool)


@dataclass(frozen=True)
class Near(MinHash, Keyed):
    """Jaccard similarity ≥ threshold of the word n-grams, found by MinHash; see MinHash for the settings."""

    def keys(self, texts):
        signature_dk = self.signatures(*self.shingles(texts))
        return band_keys(signature_dk, self.bands), has_shingles(signature_dk)

    def evidence(self, texts):
        hash_s, start_d = self.shingles(texts)
        return [as_set(hash_s[a:b]) for a, b in zip(start_d, start_d[1:])]

    def similar(self, one, other):
        found = overlap(one, other)
        return found if found >= self.threshold else None


@dataclass(frozen=True)
class NearBits(Keyed):
    """64-bit SimHash fingerprints of word n-grams that differ in at most `distance` bits. Raises ValueError for a distance outside 0..15."""

    distance: int = 3
    ngram: int = 1

    def __post_init__(self):
        if not 0 <= self.distance < 16:
            raise ValueError(f"NearBits distance={self.distance}: give 0 to 15 of {BITS} bits")

    @property
    def bands(self) -> int:
        return self.distance + 1

    def keys(self, texts):
        hash_s, start_d = shingles(texts, self.ngram)
        print_d = simhash(hash_s, start_d)
        edge = np.linspace(0, BITS, self.bands + 1).astype(int)
        blocks = [(print_d >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1) for low, high in zip(edge, edge[1:])]
        spread = [block << np.uint64(BITS - int(high - low)) for block, low, high in zip(blocks, edge, edge[1:])]
        return np.stack(spread, 1), np.diff(start_d) > 0

    def evidence(self, texts):
        return list(simhash(*shingles(texts, self.ngram)).reshape(-1, 1))

    def similar(self, one, other):
        apart = int(hamming(one, other)[0])
        return 1 - apart / BITS if apart <= self.distance else None
