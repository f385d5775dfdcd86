"""Pacing: which share of the data, easiest first, a step may read. Frozen dataclasses that map (step, steps) to a share in (0, 1].

All are jit-able and vmap-able in `step`, never fall, and reach 1 at step = duration · steps (survey §4.3; Wu et al. 2021, arXiv 2012.03107,
compare them).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Pacing:
    """Base of all pacings. start: the share at step 0; duration: the share of the steps after which everything is read."""

    start: float = 0.1
    duration: float = 0.5

    def __post_init__(self):
        if not 0 < self.start <= 1 or not 0 < self.duration <= 1:
            raise ValueError(f"{type(self).__name__} start={self.start}, duration={self.duration}: give shares in (0, 1]")

    def __call__(self, step: jax.Array, steps: int) -> jax.Array:
        """The share at `step` of `steps`."""
        return self.share(jnp.clip(step / (self.duration * steps), 0.0, 1.0))

    def share(self, x: jax.Array) -> jax.Array:
        """The share at progress x in 0 … 1."""
        raise TypeError(f"{type(self).__name__} does not say its pace: it needs share()")


@dataclass(frozen=True)
class LinearPacing(Pacing):
    """s + (1 − s)·x."""

    def share(self, x):
        return self.start + (1 - self.start) * x


@dataclass(frozen=True)
class RootPacing(Pacing):
    """s + (1 − s)·x^{1/degree}: fast at first."""

    degree: float = 2.0

    def share(self, x):
        return self.start + (1 - self.start) * x ** (1 / self.degree)


@dataclass(frozen=True)
class LogPacing(Pacing):
    """s + (1 − s)·(1 + log(x + e^{-10}) / 10), bent to s at x = 0: faster still."""

    def share(self, x):
        low = jnp.log1p(jnp.exp(-10.0)) / 10
        return self.start + (1 - self.start) * (1 - low + jnp.log(x + jnp.exp(-10.0)) / 10)


@dataclass(frozen=True)
class ExponentialPacing(Pacing):
    """s + (1 − s)·(e^{10x} − 1)/(e^{10} − 1): slow at first."""

    def share(self, x):
        return self.start + (1 - self.start) * jnp.expm1(10 * x) / jnp.expm1(10.0)


@dataclass(frozen=True)
class StepPacing(Pacing):
    """s until x = 1, then everything; with levels = n > 1 in n equal jumps."""

    levels: int = 1

    def share(self, x):
        return self.start + (1 - self.start) * jnp.floor(x * self.levels) / self.levels


@dataclass(frozen=True)
class Competence(Pacing):
    """min(1, (x·(1 − s^p) + s^p)^{1/p}), p = `power`: the competence of Platanios et al. 2019 (arXiv 1903.09848), who take p = 2 and s = 0.01."""

    start: float = 0.01
    power: float = 2.0

    def share(self, x):
        floor = self.start**self.power
        return jnp.minimum(1.0, (x * (1 - floor) + floor) ** (1 / self.power))
