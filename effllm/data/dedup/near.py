"""MinHash deduplication of texts that fit in memory; the runner does the same for those that do not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from effllm.data.dedup.clusters import best_of_each, components
from effllm.data.dedup.lsh import band_keys, candidate_pairs, collision_probability, has_shingles
from effllm.data.dedup.minhash import minhash, permutations
from effllm.data.dedup.shingle import shingles
from effllm.data.dedup.verify import jaccard

_AT_ONCE = 1 << 19


@dataclass(frozen=True, eq=False)
class Duplicates:
    """label_d: the first document of each one's cluster; pair_p2 and similarity_p: the verified pairs that make the clusters; keep_d: what stays."""

    label_d: np.ndarray
    pair_p2: np.ndarray
    similarity_p: np.ndarray
    keep_d: np.ndarray


@dataclass(frozen=True)
class MinHash:
    """Near duplicates: word `ngram`-grams, bands × rows permutations, candidates with exact Jaccard similarity ≥ `threshold`.

    Lee et al. 2022 (arXiv 2107.06499) and FineWeb (arXiv 2406.17557) deduplicate so; 14 × 8 is FineWeb's choice, and finds a pair of similarity
    0.8 with probability 0.924. Candidates are verified, so nothing below the threshold is joined directly; a cluster may hold documents that only a
    chain joins. Raises ValueError for what is out of range.
    """

    ngram: int = 5
    bands: int = 14
    rows: int = 8
    threshold: float = 0.8
    seed: int = 1

    def __post_init__(self):
        for name in ("ngram", "bands", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"MinHash {name}={getattr(self, name)}: give a positive number")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"MinHash threshold={self.threshold}: give a similarity in (0, 1]")

    def recall(self, similarity: float) -> float:
        """The probability that a pair of this similarity becomes a candidate."""
        return collision_probability(similarity, self.bands, self.rows)

    def shingles(self, texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """(hash_s, start_d) of all texts, computed a few hundred kilobytes at a time."""
        parts = [shingles(group, self.ngram) for group in grouped(texts)]
        counts = [np.diff(start_d) for _, start_d in parts]
        hash_s = np.concatenate([hash_s for hash_s, _ in parts]) if parts else np.zeros(0, np.uint32)
        return hash_s, np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64) if parts else np.zeros(1, np.int64)

    def signatures(self, hash_s: np.ndarray, start_d: np.ndarray) -> np.ndarray:
        """signature_dk (D, bands·rows)."""
        return minhash(hash_s, start_d, *permutations(self.bands * self.rows, self.seed))

    def __call__(self, texts: Sequence[bytes], score_d: np.ndarray | None = None) -> Duplicates:
        """The duplicates among `texts`; of each cluster the document with the highest score stays, by default the longest."""
        hash_s, start_d = self.shingles(texts)
        signature_dk = self.signatures(hash_s, start_d)
        pair_p2 = candidate_pairs(band_keys(signature_dk, self.bands), has_shingles(signature_dk))
        similarity_p = jaccard(hash_s, start_d, pair_p2)
        good_p = similarity_p >= self.threshold
        label_d = components(len(texts), pair_p2[good_p])
        score_d = np.array([len(text) for text in texts]) if score_d is None else score_d
        return Duplicates(label_d, pair_p2[good_p], similarity_p[good_p], best_of_each(label_d, score_d))


def grouped(texts: Sequence[bytes], size: int = _AT_ONCE) -> Iterator[list[bytes]]:
    """The texts in runs of about `size` bytes."""
    group, held = [], 0
    for text in texts:
        group.append(text)
        held += len(text)
        if held >= size:
            yield group
            group, held = [], 0
    if group:
        yield group
