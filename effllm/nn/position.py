"""Positional encodings."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import ops


class Position(nn.Module):
    """Base of all positional encodings; this one encodes nothing (NoPE, Kazemnejad et al. 2023, arXiv 2305.19466)."""

    def rotate(self, q_bthk: jax.Array, k_btgk: jax.Array, positions_bt: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Queries and keys as attention should compare them."""
        return q_bthk, k_btgk


class RoPE(Position):
    """Rotary positions: pair i of head_dim K turns by position · base^(−2i/K) (Su et al. 2021, arXiv 2104.09864).

    `fraction` of the channels turn, in half-split pairs; the rest carry no position. Raises ValueError where they do not pair.
    """

    base: float = 10000.0
    fraction: float = 1.0

    def rotate(self, q_bthk, k_btgk, positions_bt):
        turning = int(q_bthk.shape[-1] * self.fraction)
        if turning % 2:
            raise ValueError(f"RoPE turns pairs of channels: head_dim={q_bthk.shape[-1]} × fraction={self.fraction} gives {turning}, an odd number")
        frequencies_f = self.base ** (-jnp.arange(0, turning, 2, dtype=jnp.float32) / turning)
        return ops.rotary(q_bthk, positions_bt, frequencies_f), ops.rotary(k_btgk, positions_bt, frequencies_f)
