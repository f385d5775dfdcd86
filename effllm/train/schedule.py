"""Learning-rate schedules: frozen dataclasses that map (step, steps) to a multiplier of the peak rate. Fields out of range raise ValueError."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp


class Schedule:
    """Base of all schedules: `schedule(step, steps)` in 0…1, for step 0 … steps − 1."""

    def __call__(self, step: jax.Array, steps: int) -> jax.Array:
        raise TypeError(f"{type(self).__name__} does not say its rate: it needs a __call__")


def known(value) -> bool:
    """Whether a number can be judged now: one that jit, vmap or grad traces cannot."""
    return not isinstance(value, jax.core.Tracer)


def _check(schedule: Schedule, *shares: str) -> None:
    """Raise ValueError for a negative warmup or a share outside [0, 1]."""
    if known(schedule.warmup) and schedule.warmup < 0:
        raise ValueError(f"{type(schedule).__name__}: warmup={schedule.warmup} must not be negative; 0 begins at the full rate")
    for name in shares:
        if known(value := getattr(schedule, name)) and not 0 <= value <= 1:
            raise ValueError(f"{type(schedule).__name__}: {name}={value} must be a share in [0, 1]")


def _warmup(step: jax.Array, warmup: int) -> jax.Array:
    return jnp.minimum(1.0, (step + 1) / max(1, warmup))


@dataclass(frozen=True)
class Constant(Schedule):
    """min(1, (t+1)/warmup)."""

    warmup: int = 0

    def __post_init__(self):
        _check(self)

    def __call__(self, step, steps):
        return _warmup(step, self.warmup)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Linear warm-up over `warmup` steps, then final + (1−final)·(1+cos πp)/2 with p = (t−warmup)/(steps−warmup) (arXiv 1608.03983)."""

    warmup: int = 100
    final: float = 0.1

    def __post_init__(self):
        _check(self, "final")

    def __call__(self, step, steps):
        p = jnp.clip((step - self.warmup) / max(1, steps - self.warmup), 0.0, 1.0)
        return _warmup(step, self.warmup) * (self.final + (1 - self.final) * 0.5 * (1 + jnp.cos(jnp.pi * p)))


@dataclass(frozen=True)
class WSD(Schedule):
    """Warm-up, stable, decay: 1 until the last `decay` fraction of the steps, then linear to `final` (Hu et al. 2024, arXiv 2404.06395)."""

    warmup: int = 100
    decay: float = 0.2
    final: float = 0.0

    def __post_init__(self):
        _check(self, "decay", "final")

    def __call__(self, step, steps):
        left = (steps - step) / max(1.0, self.decay * steps)
        return _warmup(step, self.warmup) * (self.final + (1 - self.final) * jnp.clip(left, 0.0, 1.0))
