"""Transformer-XL's relative terms as a product of queries and keys (Dai et al. 2019, arXiv 1901.02860)."""

import jax
import jax.numpy as jnp

from effllm.ops.sinusoid import sinusoid


def relative_query(a_bthc: jax.Array, positions_bt: jax.Array, base: float = 10000.0) -> jax.Array:
    """(B, T, H, C) float32: y with y · [sin(jω), cos(jω)] = a · [sin((i − j)ω), cos((i − j)ω)] for every j.

    By the angles' sums sin((i−j)ω) = sin iω·cos jω − cos iω·sin jω and cos((i−j)ω) = cos iω·cos jω + sin iω·sin jω, exact and O(T).
    """
    sin_bt1f, cos_bt1f = jnp.split(sinusoid(positions_bt, a_bthc.shape[-1], base)[:, :, None], 2, axis=-1)
    s_bthf, c_bthf = jnp.split(a_bthc.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([c_bthf * sin_bt1f - s_bthf * cos_bt1f, s_bthf * sin_bt1f + c_bthf * cos_bt1f], axis=-1)
