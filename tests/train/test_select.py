"""Online selection: which rows, with which gradient, and that the step is otherwise the step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from effllm.data.selection import importance, rho, top
from effllm.nn import NextToken, RowLoss
from effllm.train import gradient, init_state, selecting, skip_nonfinite, train_step
from tests import tiny

MODEL = tiny.model(depth=2)
LOSS = functools.partial(NextToken(), MODEL)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def batch():
    return tiny.batch(6, 12, 64, seed=2)


@pytest.fixture(scope="module")
def params(batch):
    return tiny.init(MODEL, batch["tokens"])


def row_losses(params, batch, key):
    return RowLoss()(MODEL, params, batch)


def test_row_losses_are_the_losses_of_the_rows(params, batch):
    rows = jax.jit(row_losses)(params, batch, KEY)
    loss = jax.jit(LOSS)
    for b in range(6):
        alone = loss(params, {name: array[b : b + 1] for name, array in batch.items()}, None)[0]
        assert float(rows[b]) == pytest.approx(float(alone), rel=1e-5)
    assert np.asarray(RowLoss(chunk=2)(MODEL, params, batch)) == pytest.approx(np.asarray(rows), rel=1e-5)
    assert RowLoss()(MODEL, params, batch | {"weights": 0 * batch["weights"]}).tolist() == [0] * 6


def test_the_gradient_is_that_of_the_chosen_rows(params, batch):
    batch = batch | {"irreducible": np.linspace(0, 3, 6).astype(np.float32)}
    score = lambda params, batch, key: rho(row_losses(params, batch, key), batch["irreducible"])  # noqa: E731
    (loss, metrics), grads = jax.jit(selecting(gradient(LOSS), score, lambda key, s: (top(s, 2), None)))(params, None_like(params), batch, KEY)
    index = np.sort(np.argsort(-np.asarray(score(params, batch, KEY)))[:2])
    (expected, there), expected_grads = jax.jit(gradient(LOSS))(params, None_like(params), {name: array[index] for name, array in batch.items()}, jax.random.split(KEY, 3)[2])
    assert float(loss) == pytest.approx(float(expected), rel=1e-5) and float(metrics["tokens"]) == float(there["tokens"])
    tiny.close(grads, expected_grads, 1e-5)
    assert float(metrics["score_chosen"]) > float(metrics["score_all"])


def None_like(params):
    return jax.tree.map(lambda _: None, params)


def test_importance_weighted_gradients_are_unbiased_for_rows_of_unequal_tokens(batch):
    """A linear loss_fn in place of a model: its gradient is the weighted mean of what each row holds."""
    rng = np.random.default_rng(0)
    weights = (rng.random((6, 12)) < np.linspace(0.3, 1, 6)[:, None]).astype(np.float32)
    data = {"weights": weights, "x": rng.standard_normal((6, 12)).astype(np.float32), "norm": np.array([0.1, 3, 1, 0.5, 2, 1], np.float32)}

    def loss_fn(w, batch, key):
        tokens = jnp.sum(batch["weights"])
        return w["w"] * jnp.sum(batch["x"] * batch["weights"]) / tokens, {"tokens": tokens}

    chosen = selecting(gradient(loss_fn), lambda params, batch, key: batch["norm"], lambda key, s: importance(key, s, 3))
    params = {"w": jnp.ones(())}
    grads = jax.jit(jax.vmap(lambda key: chosen(params, None_like(params), data, key)[1]["w"]))(jax.random.split(KEY, 20_000))
    exact = (data["x"] * weights).sum() / weights.sum()
    assert float(jnp.mean(grads)) == pytest.approx(float(exact), abs=4 * float(jnp.std(grads)) / np.sqrt(20_000))


def test_a_whole_step_selects_and_is_repeatable(params, batch):
    tx = skip_nonfinite(optax.adamw(1e-2))
    grad_fn = selecting(gradient(LOSS), row_losses, lambda key, s: (top(s, 3), None))
    step = jax.jit(functools.partial(train_step, grad_fn=grad_fn, tx=tx))
    state = init_state(params, tx, KEY)
    losses = []
    for _ in range(8):
        state, metrics = step(state, batch)
        losses.append(float(metrics["score_all"]))
    assert losses[-1] < losses[0] - 0.1 and step._cache_size() == 1
    again = init_state(params, tx, KEY)
    for _ in range(8):
        again, _ = step(again, batch)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(again.params)))
