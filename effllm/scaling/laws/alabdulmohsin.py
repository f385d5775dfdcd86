"""Alabdulmohsin et al. 2022, "Revisiting Neural Scaling Laws in Language and Vision" (arXiv 2209.06640)."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from effllm.scaling.law import Law
from effllm.scaling.numeric import log, power


@dataclass(frozen=True)
class Sigmoidal(Law):
    """M4: (ε(x) − ε_∞)/(ε_0 − ε(x))^α = β x^−c, a power law for large x that starts from ε_0, the loss of an untrained model, for small x.

    ε has no closed form: with t = (ε − ε_∞)/(ε_0 − ε_∞) it is found by bisection, then by two Newton steps that carry first and second derivatives.
    """

    eps_inf: float
    eps_0: float
    alpha: float
    beta: float
    c: float

    inputs = ("x",)
    positive = ("eps_inf", "eps_0", "alpha", "beta", "c")
    starts = {"eps_inf": (0.5, 1.5), "eps_0": (4.0, 10.0), "alpha": (0.5,), "beta": (1.0, 1e2, 1e4), "c": (0.15, 0.4)}

    def __call__(self, x):
        span = self.eps_0 - self.eps_inf
        right = log(self.beta) - self.c * log(x) + (self.alpha - 1) * log(span)
        still = jax.lax.stop_gradient if isinstance(right, jax.Array) else np.asarray
        library = jnp if isinstance(right, jax.Array) else np
        fixed, alpha = still(right), still(self.alpha)

        def halve(_, bounds):
            low, high = bounds
            middle = (low + high) / 2
            above = excess(middle, alpha) > fixed
            return library.where(above, low, middle), library.where(above, middle, high)

        bounds = library.full(fixed.shape, -60.0), library.full(fixed.shape, 60.0)
        if library is jnp:
            low, high = jax.lax.fori_loop(0, 30, halve, bounds)
        else:
            low, high = functools.reduce(lambda found, i: halve(i, found), range(30), bounds)
        u = (low + high) / 2
        for _ in range(2):
            t = 1 / (1 + power(2.718281828459045, -u))
            u = u - (excess(u, self.alpha) - right) / (1 - t + self.alpha * t)
        return self.eps_inf + span / (1 + power(2.718281828459045, -u))


def excess(u, alpha):
    """ln t − α ln(1 − t) at t = 1/(1 + e^−u), increasing in u."""
    library = jnp if isinstance(u, jax.Array) else np
    return -library.logaddexp(0.0, -u) + alpha * library.logaddexp(0.0, u)
