"""Selections of a share of a corpus on disk: what the runner needs to know of a method. A new one is a class with these three.

effllm.data.selection is imported where it is used, because it needs JAX, which most worker processes do without.
"""

import abc
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from effllm.data.ngram_model import NgramModel

Fields = dict[str, Any]


class Choice(abc.ABC):
    """A pass over the corpus to count, if a method has one, another to score, and a choice among all scores. `reason` counts what falls."""

    reason: ClassVar[str] = "not_selected"

    def count(self, texts: Iterable[str]) -> np.ndarray | None:
        """Counts over some texts, summed over the whole corpus for scorer(); None where nothing is counted."""
        return None

    @abc.abstractmethod
    def scorer(self, total: np.ndarray | None) -> Callable[[str, Fields], float | np.ndarray]:
        """A function of a text and its record's other fields, which knows the corpus's counts: a number, or a vector, the same for all."""

    @abc.abstractmethod
    def choose(self, score_d: np.ndarray) -> np.ndarray:
        """keep_d (D,) bool; score_d (D,), or (D, E) of vectors."""

    def stamp(self) -> str:
        """A hex digest of whatever the fields refer to outside themselves, such as a file; empty where nothing is."""
        return ""


class Share(Choice):
    """A choice of a given share `keep` of the documents."""


@dataclass(frozen=True)
class RandomShare(Share):
    """The share `keep` of the documents, uniformly at random: the control. Raises ValueError for a share outside (0, 1]."""

    keep: float
    seed: int = 0

    def __post_init__(self):
        _count(self.keep, 1)

    def scorer(self, total):
        return lambda text, fields: 0.0

    def choose(self, score_d):
        return _sampled(score_d, self.keep, self.seed)


@dataclass(frozen=True)
class PerplexityShare(Share):
    """The share `keep` with the lowest, middle or highest bits per byte under `model`, a function of a text or the path of text for a 5-gram model."""

    model: Callable[[str], float] | str
    keep: float
    part: Literal["bottom", "middle", "top"]

    def __post_init__(self):
        _count(self.keep, 1)
        if isinstance(self.model, str):
            object.__setattr__(self, "model", NgramModel.fit(Path(self.model).read_bytes()))

    def scorer(self, total):
        return lambda text, fields: self.model(text)

    def choose(self, score_d):
        return _pruned(score_d, self.keep, self.part)


@dataclass(frozen=True)
class FieldShare(Share):
    """The share `keep` with the lowest, middle or highest value of a numeric field, such as the loss of a small proxy. Raises ValueError for a record without it."""

    field: str
    keep: float
    part: Literal["bottom", "middle", "top"]

    def __post_init__(self):
        _count(self.keep, 1)

    def scorer(self, total):
        def score(text, fields):
            value = fields.get(self.field)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise ValueError(f"a record has no numeric field {self.field!r}: FieldShare.field names one that every record has")
            return float(value)

        return score

    def choose(self, score_d):
        return _pruned(score_d, self.keep, self.part)


@dataclass(frozen=True)
class TowardTarget(Share):
    """DSIR: the share `keep`, drawn with p ∝ p_target/p_raw of hashed n-grams; `target` is a file of text, one document a line.

    Documents below min_words words are never drawn; see DSIR for smoothing. Raises ValueError for a share outside (0, 1].
    """

    target: str
    keep: float
    buckets: int = 10_000
    smoothing: float = 1.0
    min_words: int = 0
    seed: int = 0

    def __post_init__(self):
        _count(self.keep, 1)
        if not Path(self.target).is_file():
            raise FileNotFoundError(f"{self.target} is not a file: TowardTarget.target names one with a text a line")

    def stamp(self):
        return hashlib.sha256(Path(self.target).read_bytes()).hexdigest()

    def count(self, texts):
        from effllm.data.selection.dsir import bucket_counts

        return sum((bucket_counts(text, 2, self.buckets) for text in texts), np.zeros(self.buckets, np.int64))

    def scorer(self, total):
        from effllm.data.selection.dsir import DSIR

        model = DSIR.from_counts(self.count(Path(self.target).read_text().splitlines()), total, smoothing=self.smoothing)
        return lambda text, fields: model.log_weight(text) if len(text.split()) >= self.min_words else -np.inf

    def choose(self, score_d):
        return _sampled(score_d, self.keep, self.seed)


def _count(keep: float, total: int) -> int:
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep}: give a share in (0, 1]")
    return max(1, round(keep * total))


def _pruned(score_d: np.ndarray, keep: float, part: str) -> np.ndarray:
    from effllm.data.selection.prune import prune

    return prune(score_d, keep, part)


def _sampled(score_d: np.ndarray, keep: float, seed: int) -> np.ndarray:
    """Gumbel top-k in NumPy float64, so that worker processes need no JAX; documents of weight 0 are left out even where too few remain."""
    noisy_d = score_d + np.random.default_rng(seed).gumbel(size=len(score_d))
    order = np.argsort(-noisy_d, kind="stable")[: _count(keep, len(score_d))]
    keep_d = np.zeros(len(score_d), bool)
    keep_d[order] = True
    return keep_d & (score_d > -np.inf)
