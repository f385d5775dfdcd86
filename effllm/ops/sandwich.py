"""Sinusoids between tokens as a bias (Chi et al. 2022, arXiv 2212.10356)."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from effllm.ops.sinusoid import sinusoid


@dataclass(frozen=True)
class SandwichBias:
    """b(h, i, j) = H/(8h) · Σ_f cos((i − j)·10000^(−2f/D)) for h = 1 … H, as the product p_iᵀp_j of sinusoidal embeddings of D = `channels`."""

    heads: int
    channels: int

    def __call__(self, params, q_bthk, k_bsgk, i_bt, j_bs):
        product_bts = jnp.einsum("btd,bsd->bts", sinusoid(i_bt, self.channels), sinusoid(j_bs, self.channels), precision="highest")
        ratio_h = self.heads / (8.0 * np.arange(1, self.heads + 1))
        return jnp.asarray(ratio_h, jnp.float32)[:, None, None] * product_bts[:, None]
