"""Which token comes next, given the logits."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Sampler:
    """Draw from softmax(logits / temperature), cut to the `top_k` likeliest tokens and then to the smallest set of mass ≥ `top_p`.

    temperature 0 takes the likeliest token; of equally likely ones the first comes first. Nucleus sampling: Holtzman et al. 2020, arXiv 1904.09751.
    Raises ValueError for a temperature that is negative or not finite, top_k < 1, or top_p outside (0, 1].
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} must be finite and not negative; 0 takes the likeliest token")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must lie in (0, 1]")

    def logits(self, logits_bv: jax.Array) -> jax.Array:
        """Logits of the law that this sampler draws from; −inf outside its support."""
        if self.temperature == 0:
            best_b1 = jnp.argmax(logits_bv, axis=-1, keepdims=True)
            return jnp.where(jnp.arange(logits_bv.shape[-1]) == best_b1, 0.0, -jnp.inf)
        z_bv = logits_bv / self.temperature
        if self.top_k is None and self.top_p is None:
            return z_bv
        size = z_bv.shape[-1]
        sorted_bk, token_bk = jax.lax.top_k(z_bv, size if self.top_k is None else min(self.top_k, size))
        if self.top_p is not None:
            p_bk = jax.nn.softmax(sorted_bk, axis=-1)
            before_bk = jnp.cumsum(p_bk, axis=-1) - p_bk  # the mass of likelier tokens
            sorted_bk = jnp.where(before_bk < self.top_p, sorted_bk, -jnp.inf)
        return jnp.put_along_axis(jnp.full_like(z_bv, -jnp.inf), token_bk, sorted_bk, axis=-1, inplace=False)

    def __call__(self, key: jax.Array, logits_bv: jax.Array) -> jax.Array:
        """(B,) tokens."""
        if self.temperature == 0:
            return jnp.argmax(logits_bv, axis=-1).astype(jnp.int32)
        return jax.random.categorical(key, self.logits(logits_bv), axis=-1).astype(jnp.int32)
