"""Reading several domains with given shares. The domains are the sources of data.source=Mixture(sources=(…)).

Letters: t step, k domain, b row of the batch.
"""

import abc
import hashlib
from dataclasses import dataclass

import numpy as np

from effllm.data.order import Curriculum, Epochs, Plan, ReadRecords
from effllm.data.selection.mixing import temperature_mix, unimax

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Mixing(Curriculum):
    """Base of all mixtures: of the batch of step t, domain k gets ⌊p_tk·B⌋ or ⌈p_tk·B⌉ rows, in the long run p_tk·B.

    Each domain is read in epochs of its own: all its records once, in an order drawn anew, before any a second time. What a run reads depends
    on its `steps`: one that was begun with others refuses to continue. Memory: 16 bytes a step and domain. Raises ValueError where the
    weights are not one for each domain of the data, and for a domain that is wanted but has no record.
    """

    @abc.abstractmethod
    def shares(self, steps: int, size_k: np.ndarray, batch_size: int) -> np.ndarray:
        """p_tk (steps, K), rows that add up to 1; size_k: training records of each domain."""

    def plan(self, dataset, *, seed, batch_size, steps):
        if steps < 1:
            raise ValueError(f"{type(self).__name__} weighs the steps of a run of known length: steps={steps} must be at least 1")
        domains = list(dataset.domains().values())
        names = ", ".join(map(repr, dataset.domains()))
        size_k = np.array([len(domain) for domain in domains])
        p_tk = np.asarray(self.shares(steps, size_k, batch_size), np.float64)
        if p_tk.shape[1] != len(domains):
            raise ValueError(
                f"{type(self).__name__} weighs {p_tk.shape[1]} domains, but the training documents have {len(domains)} ({names}): "
                "data.source=Mixture(sources=(…)) has one a source, by its place, if any of its documents is not held out")
        if len(empty := np.flatnonzero((size_k == 0) & (p_tk > 0).any(axis=0))):
            raise ValueError(f"{type(self).__name__} gives domain {empty[0]} weight, but it has no training record: give it text, or weight 0")
        index = _Dealt(p_tk, [Epochs(domain, seed, batch_size) if len(domain) else None for domain in domains], seed, batch_size)
        return Plan(ReadRecords(dataset.train_records(), index), {"steps": steps, "mixture": index.digest})


@dataclass(frozen=True)
class Tempered(Mixing):
    """p_k ∝ size_k^(1/temperature) throughout; see temperature_mix()."""

    temperature: float = 3.3

    def shares(self, steps, size_k, batch_size):
        return np.tile(temperature_mix(size_k, self.temperature), (steps, 1))


@dataclass(frozen=True)
class UniMax(Mixing):
    """As uniform as can be without reading a domain more than `epochs` times in the run; see unimax()."""

    epochs: float = 4.0

    def shares(self, steps, size_k, batch_size):
        return np.tile(unimax(size_k, steps * batch_size, self.epochs), (steps, 1))


class _Dealt:
    """An Index: domains by systematic sampling, their records by how many were read before. After the last step its weights stay."""

    def __init__(self, p_tk: np.ndarray, order_k: list[Epochs | None], seed: int, batch_size: int):
        self._p, self._order, self._seed, self._batch_size = p_tk, order_k, seed, batch_size
        count_tk = self._counts(np.arange(len(p_tk)))
        self._before = np.concatenate([np.zeros((1, len(order_k)), np.int64), np.cumsum(count_tk, axis=0)])
        self.digest = hashlib.sha256(self._before.tobytes()).hexdigest()[:16]

    def __call__(self, step: int, rows: range) -> list[int]:
        count_k = self._counts(np.array([step]))[0]
        before_k = self._before[min(step, len(self._p))] + self._counts(np.arange(len(self._p), step)).sum(axis=0)
        domain_b = np.repeat(np.arange(len(count_k)), count_k)
        number_b = np.concatenate([before + np.arange(count) for before, count in zip(before_k, count_k)])
        mixed_b = np.random.default_rng((self._seed, step)).permutation(self._batch_size)
        return [self._order[domain_b[b]][int(number_b[b])] for b in mixed_b[list(rows)]]

    def _counts(self, step_t: np.ndarray) -> np.ndarray:
        """Rows of each domain: how many of (0 … B−1) + u_t lie in its part of 0 … B, with u_t = frac(seed + t·golden ratio), evenly spread."""
        u_t1 = np.modf((self._seed % 1009) * 0.5 + step_t * _GOLDEN)[0][:, None]
        edge_tk = np.cumsum(self._p[np.minimum(step_t, len(self._p) - 1)], axis=1) * self._batch_size
        below_tk = np.clip(np.ceil(edge_tk - u_t1 - 1e-9), 0, self._batch_size).astype(np.int64)
        below_tk[:, -1] = self._batch_size
        return np.diff(below_tk, axis=1, prepend=0)
