"""Selection within a batch during training: N candidates scored, n learned from.

Letters: n candidate, m chosen.
"""

import jax
import jax.numpy as jnp

from effllm.data.selection.check import check_count
from effllm.data.selection.gumbel import gumbel_topk


def top(score_n: jax.Array, count: int) -> jax.Array:
    """(M,) int32: the `count` highest scores, in the order of the batch; of equal ones the first.

    score = loss is loss-based selection (Jiang et al. 2019, arXiv 1910.00762); score = rho(...) is RHO-LOSS. Raises ValueError for a count
    out of range.
    """
    check_count(count, score_n.shape[0])
    return jnp.sort(jax.lax.top_k(score_n, count)[1]).astype(jnp.int32)


def rho(loss_n: jax.Array, irreducible_n: jax.Array) -> jax.Array:
    """Reducible holdout loss: loss now − loss of a model trained on held-out data (Mindermann et al. 2022, arXiv 2206.07137).

    High where something is worth learning, learnable and not yet learnt; noise has a high irreducible loss and scores low.
    """
    return loss_n - irreducible_n


def importance(key: jax.Array, norm_n: jax.Array, count: int, uniform: float = 0.1) -> tuple[jax.Array, jax.Array]:
    """(index_m, weight_m): `count` draws with replacement, p_n ∝ norm_n, and weights 1/(N p) (Katharopoulos & Fleuret 2018, arXiv 1803.00942).

    mean_m weight_m · f(index_m) is an unbiased estimate of mean_n f(n), with least variance for gradients where norm_n is their norm;
    last_layer_norm() bounds it. A share `uniform` of plain sampling bounds the weights by 1/uniform. Raises ValueError for a share outside
    [0, 1] or no draw.
    """
    if not 0 <= uniform <= 1 or count < 1:
        raise ValueError(f"uniform={uniform}, count={count}: give a share in [0, 1] and at least one draw")
    total = jnp.sum(norm_n)
    p_n = jnp.where(total > 0, norm_n / jnp.maximum(total, 1e-30), 1 / len(norm_n))
    p_n = (1 - uniform) * p_n + uniform / len(norm_n)
    index_m = jax.random.categorical(key, jnp.log(p_n), shape=(count,))
    return index_m.astype(jnp.int32), 1 / (len(norm_n) * p_n[index_m])


def last_layer_norm(logits_ntv: jax.Array, target_nt: jax.Array, weight_nt: jax.Array) -> jax.Array:
    """(N,): sqrt(Σ_t weight²·‖softmax(logits_t) − onehot(target_t)‖²), the norm of a row's gradient with respect to its logits.

    Up to a constant it bounds the norm of the whole gradient, and costs a forward pass only (arXiv 1803.00942, eq. 20).
    """
    from effllm.data.selection.el2n import el2n

    return jnp.sqrt(jnp.sum((el2n(logits_ntv, target_nt) * weight_nt) ** 2, axis=-1))


def softly(key: jax.Array, score_n: jax.Array, count: int, temperature: float) -> jax.Array:
    """(M,) int32 drawn without replacement with p ∝ exp(score/temperature), in the order of the batch: between `top` (0) and random (∞)."""
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: give a positive number, or use top()")
    return jnp.sort(gumbel_topk(key, score_n / temperature, count))
