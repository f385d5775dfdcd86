"""Uncertainty of one model, and disagreement of several.

Letters: m member of a committee, n example, v class or token. Logarithms are natural; leading axes are free.
"""

import jax
import jax.numpy as jnp


def entropy(logits_nv: jax.Array) -> jax.Array:
    """H = −Σ_v p_v ln p_v in nats."""
    logp_nv = jax.nn.log_softmax(logits_nv.astype(jnp.float32), axis=-1)
    return -jnp.sum(jnp.exp(logp_nv) * jnp.where(jnp.isfinite(logp_nv), logp_nv, 0), axis=-1)


def least_confidence(logits_nv: jax.Array) -> jax.Array:
    """1 − max_v p_v (Lewis & Gale 1994)."""
    return 1 - jnp.max(jax.nn.softmax(logits_nv.astype(jnp.float32), axis=-1), axis=-1)


def margin(logits_nv: jax.Array) -> jax.Array:
    """1 − (p_first − p_second): 1 where the two likeliest are equally likely (Scheffer et al. 2001). Needs two classes."""
    p_n2 = jax.lax.top_k(jax.nn.softmax(logits_nv.astype(jnp.float32), axis=-1), 2)[0]
    return 1 - (p_n2[..., 0] - p_n2[..., 1])


def bald(logits_mnv: jax.Array) -> jax.Array:
    """I = H(mean_m p_m) − mean_m H(p_m) ≥ 0, in nats: what the committee's members disagree about (Houlsby et al. 2011, arXiv 1112.5745).

    Members are checkpoints, seeds, or forward passes under dropout.
    """
    logp_mnv = jax.nn.log_softmax(logits_mnv.astype(jnp.float32), axis=-1)
    mean_nv = jax.nn.logsumexp(logp_mnv, axis=0) - jnp.log(logits_mnv.shape[0])
    return jnp.maximum(entropy(mean_nv) - jnp.mean(entropy(logp_mnv), axis=0), 0)
