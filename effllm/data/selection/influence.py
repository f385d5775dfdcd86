"""Influence by similarity of gradients.

Letters: c checkpoint, d training document, v validation document, p parameter, q projected dimension.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree


def project(key: jax.Array, gradient_p: jax.Array, size: int, block: int = 1 << 12) -> jax.Array:
    """(size,) float32: R g with R_qp = ±1/√size, drawn from `key` a block of parameters at a time, so that R never exists whole (size · block entries do).

    Inner products are kept within a relative error of about √(2/size) (Johnson & Lindenstrauss 1984). The same key gives the same R.
    """
    block = min(block, len(gradient_p))
    padded = jnp.pad(gradient_p.astype(jnp.float32), (0, -len(gradient_p) % block)).reshape(-1, block)

    def one(total_q, part):
        number, part_p = part
        sign_qp = jax.random.rademacher(jax.random.fold_in(key, number), (size, block), jnp.float32)
        return total_q + sign_qp @ part_p, None

    return jax.lax.scan(one, jnp.zeros(size), (jnp.arange(len(padded)), padded))[0] / jnp.sqrt(size)


def features(loss_fn: Callable[[Any, Any], jax.Array], params: Any, examples: Any, key: jax.Array, size: int) -> jax.Array:
    """(D, size): the projected gradient of loss_fn(params, example) for every example (leaves of `examples` have a leading axis D).

    One gradient at a time. For LESS give Adam's direction in place of the gradient of training documents: features of a loss_fn over
    adapters, after adam_direction().
    """
    def one(example):
        return project(key, ravel_pytree(jax.grad(loss_fn)(params, example))[0], size)

    return jax.lax.map(one, examples)


def adam_direction(gradient: Any, first: Any, second: Any, step: int, *, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8) -> Any:
    """The update that Adam would make for this gradient from its moments after `step` updates: what LESS compares (arXiv 2402.04333, §3.2)."""
    m = jax.tree.map(lambda m, g: (b1 * m + (1 - b1) * g) / (1 - b1 ** (step + 1)), first, gradient)
    v = jax.tree.map(lambda v, g: (b2 * v + (1 - b2) * g**2) / (1 - b2 ** (step + 1)), second, gradient)
    return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), m, v)


def influence(train_cdq: jax.Array, target_cvq: jax.Array, rate_c: jax.Array, *, normalise: bool = True) -> jax.Array:
    """(D, V): Σ_c rate_c · cos(train_cd, target_cv) over checkpoints c with learning rates rate_c: LESS (Xia et al. 2024, arXiv 2402.04333).

    With normalise=False it is TracIn (Pruthi et al. 2020, arXiv 2002.08484). A document's score is the maximum over V. Instruction data are
    selected so: V are examples of the task. A zero gradient has cosine 0.
    """
    if normalise:
        train_cdq, target_cvq = (a / jnp.maximum(jnp.linalg.norm(a, axis=-1, keepdims=True), 1e-12) for a in (train_cdq, target_cvq))
    return jnp.einsum("c,cdq,cvq->dv", rate_c, train_cdq, target_cvq, precision="highest")
