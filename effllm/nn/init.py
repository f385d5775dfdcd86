"""Initialisers as values: they compare, hash and travel through JSON, which closures do not."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Normal:
    """N(0, stddev²)."""

    stddev: float = 0.02

    def __call__(self, key, shape, dtype=jnp.float32):
        return self.stddev * jax.random.normal(key, shape, dtype)


@dataclass(frozen=True)
class FanIn:
    """N(0, scale²/d_in) for a (d_in, d_out) kernel: outputs keep the inputs' variance times scale² (LeCun et al. 1998)."""

    scale: float = 1.0

    def __call__(self, key, shape, dtype=jnp.float32):
        return self.scale / math.sqrt(shape[-2]) * jax.random.normal(key, shape, dtype)


@dataclass(frozen=True)
class Fill:
    """Every element equal to `value`."""

    value: float = 0.0

    def __call__(self, key, shape, dtype=jnp.float32):
        return jnp.full(shape, self.value, dtype)


Initializer = Normal | FanIn | Fill
