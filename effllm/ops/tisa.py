"""Translation-invariant self-attention (Wennberg & Henter 2021, arXiv 2106.01950)."""

import jax.numpy as jnp

from effllm.ops.distance import behind


def tisa_bias(params, q_bthk, k_bsgk, i_bt, j_bs):
    """b(h, i, j) = Σ_s a_s · exp(−|β_s| · (j − i − c_s)²) with params = (a, β, c), each (S, H)."""
    ahead_bts = -behind(i_bt, j_bs).astype(jnp.float32)
    a_sh, beta_sh, c_sh = (p[..., None, None].astype(jnp.float32) for p in params)
    return sum(a_h * jnp.exp(-jnp.abs(beta_h) * (ahead_bts[:, None] - c_h) ** 2) for a_h, beta_h, c_h in zip(a_sh, beta_sh, c_sh))
