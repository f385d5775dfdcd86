"""DoReMi: domain weights by group distributionally robust optimisation.

Letters: k domain, b batch row, t token.
"""

import jax
import jax.numpy as jnp
from flax import struct


class DoReMiState(struct.PyTreeNode):
    """alpha_k: the current weights; excess_k: each domain's last excess loss; sum_k and steps: for the average, which is the result."""

    alpha_k: jax.Array
    excess_k: jax.Array
    sum_k: jax.Array
    steps: jax.Array

    @property
    def average_k(self) -> jax.Array:
        """The weights to train the real model with: the mean of alpha over all updates; the first weights before any."""
        return jnp.where(self.steps > 0, self.sum_k / jnp.maximum(self.steps, 1), self.alpha_k)


def doremi_init(prior_k: jax.Array) -> DoReMiState:
    """The state before the first step; prior_k: weights to start from, any positive scale."""
    prior_k = jnp.asarray(prior_k, jnp.float32)
    return DoReMiState(prior_k / jnp.sum(prior_k), jnp.zeros_like(prior_k), jnp.zeros_like(prior_k), jnp.zeros((), jnp.int32))


def excess(loss_bt: jax.Array, reference_bt: jax.Array, weight_bt: jax.Array, domain_b: jax.Array, last_k: jax.Array) -> jax.Array:
    """λ_k: the mean of max(loss − reference, 0) over the tokens of domain k; its last value where the batch has none."""
    over_b = jnp.sum(jnp.maximum(loss_bt - reference_bt, 0) * weight_bt, axis=1)
    count_k = jax.ops.segment_sum(jnp.sum(weight_bt, axis=1), domain_b, last_k.shape[0])
    over_k = jax.ops.segment_sum(over_b, domain_b, last_k.shape[0])
    return jnp.where(count_k > 0, over_k / jnp.maximum(count_k, 1e-9), last_k)


def doremi_update(state: DoReMiState, excess_k: jax.Array, *, rate: float = 1.0, smoothing: float = 1e-3) -> DoReMiState:
    """α ← (1 − c)·α e^{rate·λ} / Σ α e^{rate·λ} + c/K (Xie et al. 2023, arXiv 2305.10429, algorithm 1; rate 1, c 10⁻³).

    The proxy's loss of the same step is Σ_k α_k · (mean loss of k), with the new α.
    """
    log_k = jnp.log(state.alpha_k) + rate * excess_k
    alpha_k = (1 - smoothing) * jax.nn.softmax(log_k) + smoothing / len(log_k)
    return DoReMiState(alpha_k, excess_k, state.sum_k + alpha_k, state.steps + 1)
