"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864)."""

import jax
import jax.numpy as jnp


def rotary(x_bthk: jax.Array, positions_bt: jax.Array, frequencies_f: jax.Array) -> jax.Array:
    """Rotate pairs (x_i, x_{i+F}) of the first 2F channels by the angle position · frequency_i; the other channels pass.

    The half-split pairing of GPT-NeoX and Llama. Angles are computed in float32. frequencies (F,) in radians a position, 2F ≤ K.
    """
    half = frequencies_f.shape[0]
    angle_bt1f = positions_bt[..., None, None].astype(jnp.float32) * frequencies_f
    cos, sin = jnp.cos(angle_bt1f), jnp.sin(angle_bt1f)
    first, second, rest = jnp.split(x_bthk, [half, 2 * half], axis=-1)
    rotated = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate([r.astype(x_bthk.dtype) for r in rotated] + [rest], axis=-1)
