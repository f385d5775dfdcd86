"""Rotary positions that decay."""

from typing import ClassVar

import jax.numpy as jnp

from effllm import ops
from effllm.nn.position import Position


class XPos(Position):
    """RoPE whose pair f shrinks by ζ_f^((i − j)/scale_base), ζ_f = (f/F + gamma)/(1 + gamma) (Sun et al. 2022, arXiv 2212.10554).

    For causal attention alone: for a later key ζ^(i − j) grows without bound. Queries bear ζ^(i − centre) and keys ζ^(centre − j), whose product no centre
    changes; the middle of the positions to come keeps both nearest to 1. With the defaults float32 and bfloat16 hold |p − centre| < 35,000
    (e^±88): 69 times scale_base. gamma → ∞ is RoPE. Raises ValueError for an odd head_dim and a scale_base that is not positive.
    """

    base: float = 10000.0
    gamma: float = 0.4
    scale_base: float = 512.0
    centre: int = 1024
    one_sided: ClassVar[bool] = True

    def rotate(self, q_bthk, k_btgk, positions_bt):
        head_dim = q_bthk.shape[-1]
        if self.scale_base <= 0:
            raise ValueError(f"XPos: scale_base={self.scale_base} must be positive")
        if head_dim % 2:
            raise ValueError(f"XPos turns pairs of channels: head_dim={head_dim} is an odd number")
        frequencies_f = jnp.asarray(ops.frequencies(head_dim, self.base), jnp.float32)
        scale = ops.xpos_scale(positions_bt, head_dim // 2, gamma=self.gamma, scale_base=self.scale_base, centre=self.centre)
        scale = jnp.concatenate([scale, scale], axis=-1)
        q_bthk, k_btgk = (ops.rotary(x, positions_bt, frequencies_f) for x in (q_bthk, k_btgk))
        return (q_bthk * scale).astype(q_bthk.dtype), (k_btgk / scale).astype(k_btgk.dtype)
