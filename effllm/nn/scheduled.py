"""Fields of a model that follow the step of the run."""

import abc
import dataclasses
from typing import Any

from flax import linen as nn


@dataclasses.dataclass(frozen=True)
class Scheduled(abc.ABC):
    """A number that depends on the step: what a module's field may hold where it says so, such as RandomLTD.keep.

    It is resolved before a step is traced, because it decides shapes: a step compiles once for each value. No parameter may depend on it.
    """

    @abc.abstractmethod
    def __call__(self, step: int, steps: int) -> float:
        """The value at `step` of `steps`, one of few."""


@dataclasses.dataclass(frozen=True)
class Ramp(Scheduled):
    """start + (end − start)·⌊x·levels⌋/levels with x = step/(duration·steps), at most 1: `levels` equal jumps, the last at duration·steps.

    random-LTD's linear schedule over shares of tokens (Yao et al. 2022, arXiv 2211.11586). Raises ValueError for a duration outside (0, 1] or no level.
    """

    start: float = 0.5
    end: float = 1.0
    duration: float = 0.7
    levels: int = 4

    def __post_init__(self):
        if not 0 < self.duration <= 1 or self.levels < 1:
            raise ValueError(f"Ramp duration={self.duration}, levels={self.levels}: give a share of the steps in (0, 1] and at least one level")

    def __call__(self, step, steps):
        x = min(step / (self.duration * steps), 1.0)
        return self.start + (self.end - self.start) * int(x * self.levels) / self.levels


def at_step(value: Any, step: int, steps: int) -> Any:
    """A module (or a tuple of them) with every Scheduled field, at any depth, replaced by its value at `step` of `steps`; itself where there is none."""
    if isinstance(value, Scheduled):
        return value(step, steps)
    if isinstance(value, tuple):
        new = tuple(at_step(v, step, steps) for v in value)
        return new if any(a is not b for a, b in zip(new, value)) else value
    if not isinstance(value, nn.Module):
        return value
    before = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name not in ("parent", "name")}
    fields = {name: at_step(field, step, steps) for name, field in before.items()}
    return value.clone(**fields) if any(fields[name] is not before[name] for name in before) else value
