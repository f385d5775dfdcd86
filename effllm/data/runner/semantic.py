"""Deduplication in meaning of a corpus on disk: SemDeDup and D4 as choices among the vectors of all documents."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from effllm.data.dedup.embedding import Embedding, HashedNgrams
from effllm.data.runner.shares import Choice


@dataclass(frozen=True)
class Semantic(Choice):
    """SemDeDup: without what lies nearer than `epsilon` (1 − cosine) to something kept before, within clusters; see semdedup() for the fields.

    clusters=0: √D of D documents. Texts that the embedding cannot place (without a word, say) stay. Memory: the embeddings of all documents, 4 bytes a
    number. The result does not depend on workers or shards. Raises ValueError for an epsilon outside [0, 2].
    """

    reason: ClassVar[str] = "duplicate_in_meaning"
    embedding: Embedding = HashedNgrams()
    epsilon: float = 0.05
    clusters: int = 0
    prefer: Literal["hard", "easy", "first"] = "hard"
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.epsilon <= 2 or self.clusters < 0:
            raise ValueError(f"{type(self).__name__} epsilon={self.epsilon}, clusters={self.clusters}: a distance from 0 to 2, and a number of clusters or 0 for √D")

    def count(self, texts):
        return self.embedding.count(texts)

    def scorer(self, total):
        embed = self.embedding.function(total)
        return lambda text, fields: embed(text)

    def choose(self, score_d):
        placed = np.flatnonzero(np.linalg.norm(score_d, axis=1) > 0)
        keep_d = np.ones(len(score_d), bool)
        if len(placed):
            keep_d[placed] = self.kept(score_d[placed], min(self.clusters or max(1, round(len(placed) ** 0.5)), len(placed)))
        return keep_d

    def kept(self, embedding_de: np.ndarray, clusters: int) -> np.ndarray:
        """keep_d of the documents that have a place."""
        from effllm.data.dedup.semdedup import semdedup

        return semdedup(embedding_de, clusters=clusters, epsilon=self.epsilon, prefer=self.prefer, seed=self.seed)


@dataclass(frozen=True)
class D4(Semantic):
    """SemDeDup, then of the rest the share `keep` that is farthest from its centroids (arXiv 2308.12284); see d4(). Raises ValueError for a share outside (0, 1]."""

    reason: ClassVar[str] = "duplicate_or_prototypical"
    keep: float = dataclasses.field(default=0.8, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.keep <= 1:
            raise ValueError(f"D4 keep={self.keep}: give a share in (0, 1]")

    def kept(self, embedding_de, clusters):
        from effllm.data.dedup.semdedup import d4

        return d4(embedding_de, clusters=clusters, epsilon=self.epsilon, keep=self.keep, seed=self.seed)
