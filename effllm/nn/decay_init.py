"""Initialisers of decays: how long a recurrent mixer remembers before it has learnt anything."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class LogUniform:
    """log of a number drawn evenly from low to high: the rate A of a decay e^(−A·step) (Gu & Dao 2023, arXiv 2312.00752)."""

    low: float = 1.0
    high: float = 16.0

    def __call__(self, key, shape, dtype=jnp.float32):
        return jnp.log(jax.random.uniform(key, shape, dtype, self.low, self.high))


@dataclass(frozen=True)
class SoftplusOf:
    """b with softplus(b) drawn log-evenly from low to high: the bias of a step."""

    low: float = 0.001
    high: float = 0.1

    def __call__(self, key, shape, dtype=jnp.float32):
        step = jnp.exp(jax.random.uniform(key, shape, dtype, math.log(self.low), math.log(self.high)))
        return step + jnp.log(-jnp.expm1(-step))


@dataclass(frozen=True)
class Even:
    """Evenly spaced from `first` to `last` along the last axis, the same in every row."""

    first: float
    last: float

    def __call__(self, key, shape, dtype=jnp.float32):
        return jnp.broadcast_to(jnp.linspace(self.first, self.last, shape[-1], dtype=dtype), shape)


@dataclass(frozen=True)
class Spread:
    """first + (last − first)·(n/(N − 1))^power for number n of all N, in order: over heads (H, K) and their channels together."""

    first: float
    last: float
    power: float = 1.0

    def __call__(self, key, shape, dtype=jnp.float32):
        return (self.first + (self.last - self.first) * jnp.linspace(0, 1, math.prod(shape), dtype=dtype) ** self.power).reshape(shape)
