"""EL2N: how far a young model's prediction is from the label.

Letters: n example, v class or token of the vocabulary, t token.
"""

import jax
import jax.numpy as jnp


def el2n(logits_nv: jax.Array, target_n: jax.Array) -> jax.Array:
    """‖softmax(logits) − onehot(target)‖₂, (N,), in float32: an estimate of the gradient's norm early in training (Paul et al. 2021, arXiv 2107.07075).

    Average it over some models a few epochs old. The target must lie in 0 … V-1 (it is not checked). Any leading axes.
    """
    p_nv = jax.nn.softmax(logits_nv.astype(jnp.float32), axis=-1)
    p_n = jnp.take_along_axis(p_nv, target_n[..., None], axis=-1)[..., 0]
    return jnp.sqrt(jnp.maximum(jnp.sum(p_nv**2, axis=-1) - p_n**2, 0) + (1 - p_n) ** 2)


def sequence_el2n(logits_ntv: jax.Array, target_nt: jax.Array, weight_nt: jax.Array) -> jax.Array:
    """The mean EL2N of a sequence's tokens, weighted; 0 where all weights are (Marion et al. 2023, arXiv 2309.04564)."""
    return jnp.sum(el2n(logits_ntv, target_nt) * weight_nt, -1) / jnp.maximum(jnp.sum(weight_nt, -1), 1e-9)
