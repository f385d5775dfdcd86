"""Rotations with a decay (Sun et al. 2022, arXiv 2212.10554)."""

import jax
import jax.numpy as jnp
import numpy as np


def xpos_scale(positions_bt: jax.Array, pairs: int, *, gamma: float = 0.4, scale_base: float = 512.0, centre: float = 0.0) -> jax.Array:
    """(B, T, 1, pairs) float32: ζ_f^((p − centre)/scale_base) with ζ_f = (f/pairs + gamma) / (1 + gamma), f = 0 … pairs − 1.

    Queries times it and keys divided by it make ζ_f^((i−j)/scale_base) in every score, whatever the centre.
    """
    log_zeta_f = np.log((np.arange(pairs) / pairs + gamma) / (1 + gamma))
    return jnp.exp((positions_bt[..., None, None].astype(jnp.float32) - centre) / scale_base * jnp.asarray(log_zeta_f, jnp.float32))
