"""Online selection: of N candidate rows a step learns from n.

Letters: n candidate row, m chosen row, t token.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from effllm.shard import shard
from effllm.train.step import Batch, GradFn, combine

ScoreFn = Callable[[Any, Batch, jax.Array], jax.Array]
ChooseFn = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array | None]]


def selecting(grad_fn: GradFn, score_fn: ScoreFn, choose: ChooseFn) -> GradFn:
    """grad_fn on the rows that `choose` picks of every batch: a wrapper around the gradient, so that the step stays as it is.

    score_n = score_fn(params, batch, key), without a gradient; (index_m, weight_m or None) = choose(key, score_n), of fixed M, for example from
    effllm.data.selection: `lambda key, s: (top(s, 8), None)`, or `lambda key, s: importance(key, s, 8)` with norms as scores.

    weight_m makes the estimate unbiased: rows are weighted by it, and the result is scaled from Σ_m weight·tokens, which the loss divides
    by, to M/N · Σ_n tokens, which has the same expectation, so that E[gradient] is the gradient of all N. The batch is a dict of arrays
    with a leading axis N, among them "weights" (N, T); whatever score_fn needs beyond tokens, such as "irreducible" (N,), lies in it too.

    Cost: N forward and n forward and backward rows, (N + 3n)/3n times a plain step of n rows; charge it. Metrics gain "score_all" and
    "score_chosen", the mean scores, and "tokens" counts what is learned from.
    """

    def selected(moving, fixed, batch, key):
        score_key, choose_key, step_key = jax.random.split(key, 3)
        score_n = jax.lax.stop_gradient(score_fn(combine(moving, fixed), batch, score_key))
        index_m, weight_m = choose(choose_key, score_n)
        chosen = {name: shard(jnp.take(array, index_m, axis=0), "batch", *[None] * (array.ndim - 1)) for name, array in batch.items()}
        tokens = jnp.sum(chosen["weights"])
        scale = 1.0
        if weight_m is not None:
            chosen["weights"] = chosen["weights"] * weight_m[:, None]
            expected = jnp.sum(batch["weights"]) * len(index_m) / len(score_n)
            scale = jnp.sum(chosen["weights"]) / jnp.maximum(expected, 1e-9)
        (loss, metrics), grads = grad_fn(moving, fixed, chosen, step_key)
        loss, grads = jax.tree.map(lambda a: a * scale, (loss, grads))
        return (loss, metrics | {"tokens": tokens, "score_all": jnp.mean(score_n), "score_chosen": jnp.mean(score_n[index_m])}), grads

    return selected
