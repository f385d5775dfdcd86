"""Attention with linear biases (Press et al. 2021, arXiv 2108.12409)."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from effllm.ops.bias import HeadBias


def alibi_slopes(heads: int, max_bias: float = 8.0) -> np.ndarray:
    """(H,) float64: m_h = 2^(−max_bias·h/H) for h = 1 … H, where H is a power of two.

    Else, with P the power of two above H, every second of P's slopes from the second on, then every second from the first on, until there
    are H: the paper's released rule, which BLOOM and MPT follow.
    """
    power = 1 << (heads - 1).bit_length()
    slopes = 2.0 ** (-max_bias / power * np.arange(1, power + 1))
    return slopes if power == heads else np.concatenate([slopes[1::2], slopes[::2]])[:heads]


@dataclass(frozen=True)
class ALiBiBias(HeadBias):
    """b(h, i, j) = −slope_h · |i − j|."""

    slopes: tuple[float, ...]

    @property
    def numbers(self):
        return self.slopes

    def of_head(self, number, i, j):
        return -number * jnp.abs(i - j).astype(jnp.float32)
