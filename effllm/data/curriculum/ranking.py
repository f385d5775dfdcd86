"""How hard each training record is: values for a configuration, over the functions of difficulty.py.

Letters: n record, t token, v vocabulary.
"""

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from effllm.data.curriculum.difficulty import compression, length, rarity
from effllm.data.dataset import Dataset
from effllm.data.ngram_model import NgramModel
from effllm.data.order import Batch

_AT_ONCE = 256


@dataclass(frozen=True)
class Ranking(abc.ABC):
    """difficulty_n = ranking(dataset), one finite number a training record, higher is harder."""

    @abc.abstractmethod
    def __call__(self, dataset: Dataset) -> np.ndarray:
        """difficulty_n (N,) float64; a few hundred records are in memory at once."""


@dataclass(frozen=True)
class ByLength(Ranking):
    """The mean length of the pieces of documents that a record holds, in tokens."""

    def __call__(self, dataset):
        def one(batch):
            return np.asarray(length(batch["segment_ids"] > 0)) / np.maximum(batch["segment_ids"].max(axis=1), 1)

        return _each(dataset, one)


@dataclass(frozen=True)
class ByRarity(Ranking):
    """−Σ_t log p(token_t) under the unigram distribution of the training records, with one added to every count (arXiv 1903.09848, eq. 2)."""

    def __call__(self, dataset):
        count_v = np.ones(dataset.manifest["vocab_size"])
        for batch in _batches(dataset):
            count_v += np.bincount(batch["tokens"][batch["weights"] > 0], minlength=len(count_v))
        logp_v = jnp.asarray(np.log(count_v / count_v.sum()), jnp.float32)
        score = jax.jit(rarity)
        return _each(dataset, lambda batch: score(batch["tokens"], batch["weights"], logp_v))


@dataclass(frozen=True)
class ByCompression(Ranking):
    """Compressed bytes over bytes of a record's text, by zlib: repetitive text is easy."""

    level: int = 6

    def __call__(self, dataset):
        return _each(dataset, lambda batch: compression((text.encode() for text in _texts(dataset, batch)), self.level))


@dataclass(frozen=True)
class ByPerplexity(Ranking):
    """Bits per byte of a record's text under a 5-gram model of the text file `model`."""

    model: str

    def __call__(self, dataset):
        model = NgramModel.fit(Path(self.model).read_bytes())
        return _each(dataset, lambda batch: [model(text) for text in _texts(dataset, batch)])


@dataclass(frozen=True)
class ByScores(Ranking):
    """The numbers of the .npy file `path`, one a training record in stored order: `effllm eval RUN --row-losses FILE` writes a run's losses.

    Raises ValueError for a file of another size or with numbers that are not finite.
    """

    path: str

    def __call__(self, dataset):
        score_n, count = np.load(self.path), dataset.records("train")
        if score_n.shape != (count,) or not np.isfinite(score_n).all():
            raise ValueError(f"{self.path} holds an array {score_n.shape}: ByScores.path names one of {count} finite numbers, one a training record")
        return score_n.astype(np.float64)


def _batches(dataset: Dataset) -> Iterator[Batch]:
    """All training records in stored order; the last batch is filled up, so that one shape serves all."""
    return dataset.held_out_batches(batch_size=_AT_ONCE, split="train")


def _each(dataset: Dataset, function) -> np.ndarray:
    return np.concatenate([np.asarray(function(batch), np.float64) for batch in _batches(dataset)])[: dataset.records("train")]


def _texts(dataset: Dataset, batch: Batch) -> Iterator[str]:
    return (dataset.codec.decode(token_t[segment_t > 0].tolist()) for token_t, segment_t in zip(batch["tokens"], batch["segment_ids"]))
