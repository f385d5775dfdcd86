"""Kernelized relative positions (Chi et al. 2022, arXiv 2205.09921)."""

import jax.numpy as jnp

from effllm.ops.distance import behind


def kerple_log_bias(params, q_bthk, k_bsgk, i_bt, j_bs):
    """b(h, i, j) = −r1_h · ln(1 + r2_h·|i − j|) with params = (r1, r2) > 0, each (H,)."""
    r1_h11, r2_h11 = (r[:, None, None].astype(jnp.float32) for r in params)
    return -r1_h11 * jnp.log1p(r2_h11 * jnp.abs(behind(i_bt, j_bs))[:, None])


def kerple_power_bias(params, q_bthk, k_bsgk, i_bt, j_bs):
    """b(h, i, j) = −r1_h · |i − j|^r2_h with params = (r1 > 0, 0 < r2 ≤ 2), each (H,)."""
    r1_h11, r2_h11 = (r[:, None, None].astype(jnp.float32) for r in params)
    distance_b1ts = jnp.abs(behind(i_bt, j_bs))[:, None].astype(jnp.float32)
    power = jnp.exp(r2_h11 * jnp.log(jnp.maximum(distance_b1ts, 1)))  # 0^r2 has no gradient in r2: the logarithm never sees 0
    return -r1_h11 * jnp.where(distance_b1ts > 0, power, 0)
