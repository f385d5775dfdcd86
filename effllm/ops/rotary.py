"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864)."""

import jax
import jax.numpy as jnp


def rotary(x_bthk: jax.Array, positions_bt: jax.Array, frequencies_f: jax.Array, *, interleaved: bool = False, factor: float = 1.0) -> jax.Array:
    """Rotate pairs of the first 2F channels by the angle position · frequency_i and multiply them by `factor`; the other channels pass.

    Pair i is channels (i, i + F), as in GPT-NeoX and Llama, or (2i, 2i + 1) where `interleaved`, as in GPT-J. Angles are computed in
    float32. frequencies (F,) in radians a position, 2F ≤ K.
    """
    half = frequencies_f.shape[0]
    angle_bt1f = positions_bt[..., None, None].astype(jnp.float32) * frequencies_f
    cos, sin = factor * jnp.cos(angle_bt1f), factor * jnp.sin(angle_bt1f)
    x = x_bthk[..., : 2 * half]
    # Each channel beside its partner: products that fuse, where halves to be joined again would not.
    if interleaved:
        partner = jnp.flip(x.reshape(*x.shape[:-1], half, 2), axis=-1).reshape(x.shape)
        cos, sin = jnp.repeat(cos, 2, axis=-1), jnp.stack([-sin, sin], axis=-1).reshape(*sin.shape[:-1], 2 * half)
    else:
        partner = jnp.roll(x, half, axis=-1)
        cos, sin = jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)
    turned = x * cos + partner * sin
    return jnp.concatenate([turned.astype(x.dtype), x_bthk[..., 2 * half :]], axis=-1)
