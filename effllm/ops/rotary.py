"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864)."""

import jax
import jax.numpy as jnp


def rotary(x_bthk: jax.Array, positions_bt: jax.Array, frequencies_f: jax.Array) -> jax.Array:
    """Rotate pairs (x_i, x_{i+F}) of the first 2F channels by the angle position · frequency_i; the other channels pass.

    The half-split pairing of GPT-NeoX and Llama. Angles are computed in float32. frequencies (F,) in radians a position, 2F ≤ K.
    """
    turning = 2 * frequencies_f.shape[0]
    angle_bt1f = positions_bt[..., None, None].astype(jnp.float32) * frequencies_f
    cos, sin = jnp.cos(angle_bt1f), jnp.sin(angle_bt1f)
    x = x_bthk[..., :turning]
    # Each channel beside its partner, one half further: products that fuse, where halves to be joined again would not.
    partner = jnp.roll(x, turning // 2, axis=-1)
    turned = x * jnp.concatenate([cos, cos], axis=-1) + partner * jnp.concatenate([-sin, sin], axis=-1)
    return jnp.concatenate([turned.astype(x.dtype), x_bthk[..., turning:]], axis=-1)
