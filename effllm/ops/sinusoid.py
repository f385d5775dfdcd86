"""Sinusoids of positions (Vaswani et al. 2017, arXiv 1706.03762)."""

import jax
import jax.numpy as jnp
import numpy as np


def frequencies(channels: int, base: float = 10000.0) -> np.ndarray:
    """(channels/2,) float64: base^(−2f/channels) radians a position."""
    return base ** (-np.arange(0, channels, 2) / channels)


def sinusoid(positions: jax.Array, channels: int, base: float = 10000.0) -> jax.Array:
    """(…, channels) float32: [sin(p·ω_f) …, cos(p·ω_f) …] with ω_f = base^(−2f/channels), for positions (…) of any real type."""
    angle = positions[..., None].astype(jnp.float32) * jnp.asarray(frequencies(channels, base), jnp.float32)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
