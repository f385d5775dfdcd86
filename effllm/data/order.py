"""What a step reads: the contract of all curricula, and the plain order.

A curriculum is a value in the configuration (`data.curriculum=…`). Its plan is a pure function of the step, so that resuming needs only the
step, and any number of processes read their rows of the same global batch. This module needs no JAX; effllm.data.curriculum has the others.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from effllm.data.packing import unpack

if TYPE_CHECKING:
    from effllm.data.dataset import Dataset

Batch = dict[str, np.ndarray]
Read = Callable[[int, range], Batch]
Index = Callable[[int, range], list[int]]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """read(step, rows): the arrays of `rows` of the step's global batch, a picklable function; needs: what it depends on beside seed and batch size.

    A read may answer with f times as many rows of length/f (f a whole number that depends on the step only): then it does so for every process.
    """

    read: Read
    needs: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Curriculum(abc.ABC):
    """What each step reads. A new curriculum is a frozen dataclass of plain values with a plan(); nothing else knows it."""

    @abc.abstractmethod
    def plan(self, dataset: "Dataset", *, seed: int, batch_size: int, steps: int) -> Plan:
        """How a run of `steps` steps reads the training records. Raises ValueError for what the data cannot serve."""


@dataclasses.dataclass(frozen=True)
class Shuffled(Curriculum):
    """Every training record once an epoch, each epoch in a new order: row r of step n is example n·batch_size + r."""

    def plan(self, dataset, *, seed, batch_size, steps):
        return Plan(ReadRecords(dataset.train_records(), Epochs(range(dataset.records("train")), seed, batch_size)))


class ReadRecords:
    """A Read of whole records: `index(step, rows)` says which."""

    def __init__(self, records, index: Index):
        self._records, self._index = records, index

    def __call__(self, step: int, rows: range) -> Batch:
        return unpack(*self._records.read(self._index(step, rows)))


class Epochs:
    """An Index that repeats `examples`, shuffled anew in every epoch; [i] is the i-th example of all."""

    def __init__(self, examples: range, seed: int, batch_size: int):
        import grain

        self._order = grain.MapDataset.range(examples.start, examples.stop).seed(seed).shuffle().repeat()
        self._batch_size = batch_size

    def __getitem__(self, number: int) -> int:
        return int(self._order[number])

    def __call__(self, step: int, rows: range) -> list[int]:
        return [self[step * self._batch_size + row] for row in rows]
