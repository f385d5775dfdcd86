"""Sequence-length warm-up: early steps read the beginnings of their sequences."""

from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from effllm.data.order import Curriculum, Plan, Read, Shuffled

Batch = TypeVar("Batch", dict[str, np.ndarray], dict[str, jax.Array])


@dataclass(frozen=True)
class LengthWarmup:
    """⌊(t/steps)^{1/degree}·(maximum − minimum) + minimum⌋, down to a `multiple`, at least minimum rounded up to one, at most maximum.

    DeepSpeed's fixed_linear (degree 1) and fixed_root schedules (Li et al. 2022, arXiv 2108.06084, from 8 to 1,024 tokens), except that a
    minimum that is no multiple is rounded up, where DeepSpeed may return 0. It also serves as the number of tokens that random-LTD keeps.
    There are `lengths` different values, and a step compiles once for each: so multiple is large, say maximum/8. Raises ValueError for a
    field out of range.
    """

    maximum: int
    minimum: int = 8
    steps: int = 1000
    multiple: int = 8
    degree: float = 1.0

    def __post_init__(self):
        if not 1 <= self.minimum <= self.maximum or min(self.steps, self.multiple) < 1 or self.degree <= 0:
            raise ValueError(f"{self}: 1 ≤ minimum ≤ maximum, and steps, multiple and degree are positive")

    def __call__(self, step: int) -> int:
        """The length at `step`, a Python number, because it decides a shape."""
        reached = int((step / self.steps) ** (1 / self.degree) * (self.maximum - self.minimum) + self.minimum)
        first = -(-self.minimum // self.multiple) * self.multiple
        return min(max(reached - reached % self.multiple, first), self.maximum)

    def at(self, step: jax.Array) -> jax.Array:
        """The same as an array of steps, jit-able and vmap-able; in float32 it may differ by one multiple where the formula meets an integer."""
        reached = jnp.floor((step / self.steps) ** (1 / self.degree) * (self.maximum - self.minimum) + self.minimum).astype(jnp.int32)
        first = -(-self.minimum // self.multiple) * self.multiple
        return jnp.minimum(jnp.maximum(reached - reached % self.multiple, first), self.maximum)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Every length that occurs, ascending."""
        return tuple(sorted({self(step) for step in range(self.steps + 1)}))


def shortened(batch: Batch, length: int) -> Batch:
    """The first `length` tokens of every row: arrays (B, T) become (B, length). Targets were made before, so that the last token keeps its own."""
    return {name: array[:, :length] for name, array in batch.items()}


@dataclass(frozen=True)
class SequenceWarmup(Curriculum):
    """Every step reads the first LengthWarmup(sequence_length, minimum, steps, multiple, degree)(step) tokens of the rows of `over`.

    `over` is another curriculum, so that warm-ups combine with any order. What lies behind the length is not read in that epoch. A step compiles
    once for each length: (sequence_length − minimum)/multiple + 1 times. Raises ValueError for a field out of range.
    """

    minimum: int = 32
    steps: int = 1000
    multiple: int = 32
    degree: float = 1.0
    over: Curriculum = Shuffled()

    def plan(self, dataset, *, seed, batch_size, steps):
        lengths = LengthWarmup(dataset.length, self.minimum, self.steps, self.multiple, self.degree)
        plan = self.over.plan(dataset, seed=seed, batch_size=batch_size, steps=steps)
        return Plan(_ReadShortened(plan.read, lengths), plan.needs)


class _ReadShortened:
    """A Read of the first tokens of another."""

    def __init__(self, read: Read, lengths: LengthWarmup):
        self._read, self._lengths = read, lengths

    def __call__(self, step: int, rows: range) -> dict[str, np.ndarray]:
        return shortened(self._read(step, rows), self._lengths(step))
