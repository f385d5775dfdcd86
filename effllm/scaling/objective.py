"""What a fit minimises: Σ w·ρ(r) over the runs, r a residual of loss or of its logarithm. Summed, not averaged: an optimiser that
stops on absolute change stops too early on a mean (Besiroglu et al. 2024, arXiv 2404.10102, on Hoffmann's fit)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from effllm.scaling.numeric import log


class Objective:
    """Base of all objectives: `residual(prediction, target)` and ρ, ψ = ρ′, ψ′ and the reweighting ψ(r)/r."""

    def residual(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        raise TypeError(f"{type(self).__name__} does not say its residual")

    def rho(self, r: jax.Array) -> jax.Array:
        return 0.5 * r * r

    def psi(self, r: jax.Array) -> jax.Array:
        return r

    def slope(self, r: jax.Array) -> jax.Array:
        return jnp.ones_like(r)

    def reweight(self, r: jax.Array) -> jax.Array:
        return jnp.ones_like(r)


@dataclass(frozen=True)
class Squares(Objective):
    """ρ(r) = r²/2 on r = L̂ − L."""

    def residual(self, prediction, target):
        return prediction - target


@dataclass(frozen=True)
class LogSquares(Objective):
    """ρ(r) = r²/2 on r = ln L̂ − ln L."""

    def residual(self, prediction, target):
        return log(prediction) - log(target)


@dataclass(frozen=True)
class Huber(Objective):
    """ρ(r) = r²/2 for |r| ≤ δ, else δ(|r| − δ/2), on r = L̂ − L."""

    delta: float = 1e-3

    def residual(self, prediction, target):
        return prediction - target

    def rho(self, r):
        size = jnp.abs(r)
        return jnp.where(size <= self.delta, 0.5 * r * r, self.delta * (size - 0.5 * self.delta))

    def psi(self, r):
        return jnp.clip(r, -self.delta, self.delta)

    def slope(self, r):
        return (jnp.abs(r) <= self.delta).astype(r.dtype)

    def reweight(self, r):
        return self.delta / jnp.maximum(jnp.abs(r), self.delta)


@dataclass(frozen=True)
class LogHuber(Huber):
    """Hoffmann et al.'s: Huber's ρ with δ = 1e-3 on r = ln L̂ − ln L (arXiv 2203.15556, D.2)."""

    def residual(self, prediction, target):
        return log(prediction) - log(target)
