"""Online selection as values for `select`: which rows of every batch a step learns from.

Letters: n candidate row, m chosen row.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from effllm.data.selection import importance, rho, softly, top
from effllm.train.step import Batch


@dataclass(frozen=True)
class Judge:
    """What a selection may ask about the rows of a batch; each function maps (params, batch) to (N,).

    loss: nats a token; gradient_norm: with respect to the logits; reference: nats a token under the reference run, None where there is none.
    """

    loss: Callable[[Any, Batch], jax.Array]
    gradient_norm: Callable[[Any, Batch], jax.Array]
    reference: Callable[[Batch], jax.Array] | None = None


@dataclass(frozen=True)
class Selection(abc.ABC):
    """Of the data.batch_size rows of every batch a step learns from the share `keep`. A new selection is a frozen dataclass with a score().

    Scoring costs a forward pass over all rows: a step costs (1/keep + 3)/3 times one that reads only as many rows. The metric "tokens" counts what is
    learned from. Raises ValueError for a share outside (0, 1].
    """

    keep: float = 0.25

    def __post_init__(self):
        if not 0 < self.keep <= 1:
            raise ValueError(f"select.keep={self.keep}: give a share of the rows in (0, 1]")

    def count(self, rows: int) -> int:
        """How many of `rows` are learned from."""
        return max(1, round(self.keep * rows))

    @abc.abstractmethod
    def score(self, judge: Judge, params: Any, batch: Batch) -> jax.Array:
        """score_n of the rows; higher is chosen first."""

    def choose(self, key: jax.Array, score_n: jax.Array, count: int) -> tuple[jax.Array, jax.Array | None]:
        """(index_m, weight_m or None): by default the `count` highest scores, unweighted."""
        return top(score_n, count), None


@dataclass(frozen=True)
class TopLoss(Selection):
    """The rows of the highest loss (Jiang et al. 2019, arXiv 1910.00762)."""

    def score(self, judge, params, batch):
        return judge.loss(params, batch)


@dataclass(frozen=True)
class SoftLoss(Selection):
    """Rows drawn without replacement with p ∝ exp(loss/temperature): between TopLoss (0) and chance (∞)."""

    temperature: float = 0.5

    def score(self, judge, params, batch):
        return judge.loss(params, batch)

    def choose(self, key, score_n, count):
        return softly(key, score_n, count, self.temperature), None


@dataclass(frozen=True)
class GradientNorm(Selection):
    """Rows drawn with p ∝ the bound of their gradient's norm, weighted so that the gradient stays unbiased (arXiv 1803.00942); see importance()."""

    uniform: float = 0.1

    def score(self, judge, params, batch):
        return judge.gradient_norm(params, batch)

    def choose(self, key, score_n, count):
        return importance(key, score_n, count, self.uniform)


@dataclass(frozen=True, kw_only=True)
class RHOLoss(Selection):
    """The rows of the highest reducible loss: loss now − loss under the trained run in the folder `reference` (arXiv 2206.07137).

    The reference should be small and trained on text that this run does not read; it scores every batch too, and must stay as it is while
    this run goes on. It needs the same tokenizer with the same vocabulary: one data.tokenizer=TokenizerFile(…) for both, or Bytes().
    """

    reference: str

    def score(self, judge, params, batch):
        return rho(judge.loss(params, batch), judge.reference(batch))
