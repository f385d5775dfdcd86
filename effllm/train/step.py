"""The training step, and what wraps its gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from effllm.train.optimizer import skipped

Batch = dict[str, jax.Array]
LossFn = Callable[[Any, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
GradFn = Callable[[Any, Any, Batch, jax.Array], tuple[tuple[jax.Array, dict[str, jax.Array]], Any]]


class TrainState(struct.PyTreeNode):
    """All that a step changes. `step` counts finished steps; `key` (raw data of a PRNG key) and `step` give each step its own key."""

    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array


def items(state: TrainState) -> dict[str, Any]:
    """A state as the items of a checkpoint: the parameters can then be read alone."""
    return {"params": state.params, "rest": {"step": state.step, "opt_state": state.opt_state, "key": state.key}}


def from_items(saved: dict[str, Any]) -> TrainState:
    """The state that `items` took apart."""
    return TrainState(params=saved["params"], **saved["rest"])


def partition(params: Any, trainable: Callable[[Any], bool]) -> tuple[Any, Any]:
    """(moving, fixed): the same tree twice, None where a leaf is in the other."""
    moving = jax.tree.map(lambda p: p if trainable(p) else None, params)
    fixed = jax.tree.map(lambda p: None if trainable(p) else p, params)
    return moving, fixed


def combine(moving: Any, fixed: Any) -> Any:
    """The tree that `partition` took apart."""
    return jax.tree.map(lambda m, f: f if m is None else m, moving, fixed, is_leaf=lambda x: x is None)


def floating(leaf: Any) -> bool:
    """Whether a leaf can be trained at all: quantised integers cannot."""
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def init_state(params: Any, tx: optax.GradientTransformation, key: jax.Array, trainable=floating) -> TrainState:
    """The state before the first step."""
    moving, _ = partition(params, trainable)
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(moving), jax.random.key_data(key))


def gradient(loss_fn: LossFn) -> GradFn:
    """grad_fn(moving, fixed, batch, key) -> ((loss, metrics), gradient of the moving parameters)."""

    def objective(moving, fixed, batch, key):
        return loss_fn(combine(moving, fixed), batch, key)

    return jax.value_and_grad(objective, has_aux=True)


def accumulate(grad_fn: GradFn, micro: int) -> GradFn:
    """The same gradient from `micro` smaller batches, one after another: each counts by its metrics["tokens"], which the loss divides by.

    Rows are dealt out in turn, so that a sharded batch stays where it is.
    """
    if micro == 1:
        return grad_fn

    def accumulated(moving, fixed, batch, key):
        parts = jax.tree.map(lambda a: a.reshape(a.shape[0] // micro, micro, *a.shape[1:]).swapaxes(0, 1), batch)

        def one(part, key):
            (loss, metrics), grads = grad_fn(moving, fixed, part, key)
            tokens = metrics["tokens"]
            means = {k: v for k, v in metrics.items() if k != "tokens"}
            return tokens, jax.tree.map(lambda a: a * tokens, (loss, means, grads))

        def add(total, part_key):
            return jax.tree.map(jnp.add, total, one(*part_key)), None

        keys = jax.random.split(key, micro)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(one, jax.tree.map(lambda a: a[0], parts), keys[0]))
        (tokens, sums), _ = jax.lax.scan(add, zeros, (parts, keys))
        loss, means, grads = jax.tree.map(lambda a: a / jnp.where(tokens > 0, tokens, 1), sums)
        return (loss, means | {"tokens": tokens}), grads

    return accumulated


def train_step(state: TrainState, batch: Batch, *, grad_fn: GradFn, tx: optax.GradientTransformation, trainable=floating):
    """(state, metrics) after one update by `tx`, which must be a `skip_nonfinite`."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    moving, fixed = partition(state.params, trainable)
    (_, metrics), grads = grad_fn(moving, fixed, batch, key)
    updates, opt_state = tx.update(grads, state.opt_state, moving)
    params = combine(optax.apply_updates(moving, updates), fixed)
    metrics = metrics | {"gradient_norm": optax.tree.norm(grads)} | skipped(opt_state)
    return TrainState(state.step + 1, params, opt_state, state.key), metrics
