"""Functional interpolation of relative positions (Li et al. 2023, arXiv 2310.04418)."""

import jax.numpy as jnp

from effllm.ops.distance import behind


def fire_bias(params, q_bthk, k_bsgk, i_bt, j_bs):
    """b(h, i, j) = f_h(ψ(|i − j|) / ψ(max(i, L))), ψ(x) = ln(1 + |c|·x), f = W2 relu(w1·x + b1) + b2.

    params: c and L (), w1 and b1 (F,), w2 (F, H), b2 (H,). The quotient of a causal distance lies in [0, 1] at any length, so that longer
    texts are interpolated. A block costs F numbers for each of its pairs.
    """
    c, threshold = jnp.abs(params["c"]), jnp.abs(params["L"])
    distance_bts = jnp.abs(behind(i_bt, j_bs)).astype(jnp.float32)
    whole_bt1 = jnp.maximum(i_bt.astype(jnp.float32), threshold)[..., None]
    x_bts = jnp.log1p(c * distance_bts) / (jnp.log1p(c * whole_bt1) + 1e-6)
    h_btsf = jnp.maximum(x_bts[..., None] * params["w1"] + params["b1"], 0)
    y_bhts = jnp.einsum("btsf,fh->bhts", h_btsf, params["w2"], precision="highest")
    return y_bhts + params["b2"][:, None, None]
