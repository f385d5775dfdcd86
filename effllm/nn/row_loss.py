"""One number for every row of a batch: what online selection scores. Both take a batch as NextToken does.

Letters: b row, t token, v vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import weights


@dataclass(frozen=True)
class RowLoss:
    """(B,) mean negative log-likelihood a token, in nats, Σ_t w·nll / Σ_t w; 0 for a row without weight.

    At most `chunk` rows of logits exist at once (by default all); no dropout.
    """

    chunk: int | None = None

    def __call__(self, model: nn.Module, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        def loss(z_tv, target_t, weight_t):
            nll_t = jax.nn.logsumexp(z_tv, axis=-1) - jnp.take_along_axis(z_tv, target_t[:, None], axis=-1)[:, 0]
            return jnp.sum(nll_t * weight_t) / jnp.maximum(jnp.sum(weight_t), 1)

        return _each_row(loss, model, params, batch, self.chunk)


@dataclass(frozen=True)
class RowGradientNorm:
    """(B,) sqrt(Σ_t w²·‖softmax(z_t) − onehot(target_t)‖²): the norm of the gradient of Σ_t w·nll with respect to the logits.

    Up to a constant it bounds the norm of the whole gradient, for a forward pass (Katharopoulos & Fleuret 2018, arXiv 1803.00942, eq. 20).
    """

    chunk: int | None = None

    def __call__(self, model: nn.Module, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        def norm(z_tv, target_t, weight_t):
            p_tv = jax.nn.softmax(z_tv)
            hit_t = jnp.take_along_axis(p_tv, target_t[:, None], axis=-1)[:, 0]
            return jnp.sqrt(jnp.sum(weight_t**2 * (jnp.sum(p_tv**2, axis=-1) - 2 * hit_t + 1)))

        return _each_row(norm, model, params, batch, self.chunk)


def _each_row(function: Callable, model: nn.Module, params: Any, batch: dict[str, jax.Array], chunk: int | None) -> jax.Array:
    """function(logits_tv, target_t, weight_t) of every row."""
    x_btd, _ = model.apply({"params": params}, batch["tokens"], positions=batch["positions"], segment_ids=batch["segment_ids"], method="features")
    w_dv, bias_v = model.head_weights(params)

    def row(x_target_weight):
        x_td, target_t, weight_t = x_target_weight
        z_tv = weights.matmul(x_td, w_dv, wide=True)
        z_tv = z_tv if bias_v is None else z_tv + bias_v
        z_tv = z_tv if model.soft_cap is None else model.soft_cap * jnp.tanh(z_tv / model.soft_cap)
        return function(z_tv, target_t, weight_t)

    return jax.lax.map(row, (x_btd, batch["targets"], batch["weights"]), batch_size=chunk or x_btd.shape[0])
