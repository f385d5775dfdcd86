"""Distances between the tokens of two blocks."""

import jax


def behind(i_bt: jax.Array, j_bs: jax.Array) -> jax.Array:
    """(B, T, S) by how many positions query i lies beyond key j; negative where the key comes later."""
    return i_bt[..., None] - j_bs[..., None, :]
