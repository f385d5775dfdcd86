"""Selection that watches training: DoReMi, mixing laws, RHO, importance sampling, diversity, influence."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm.data.selection import (
    MixingLaw, adam_direction, doremi_init, doremi_update, dpp_greedy, excess, features, importance, influence, k_center, last_layer_norm, project, rho, softly, top,
)  # fmt: skip

KEY = jax.random.key(0)


def test_doremi_is_algorithm_1():
    random = np.random.default_rng(0)
    alpha, state, seen, last = np.array([0.5, 0.3, 0.2]), doremi_init([5, 3, 2]), [], np.zeros(3)
    update = jax.jit(lambda state, excess_k: doremi_update(state, excess_k, rate=0.7, smoothing=0.01))
    for step in range(6):
        loss, reference, weight = random.random((4, 5)) * 3, random.random((4, 5)) * 3, (random.random((4, 5)) > 0.3).astype(float)
        domain = random.integers(0, 3 if step % 2 else 2, 4)
        for k in range(3):
            rows = domain == k
            if weight[rows].sum():
                last[k] = (np.maximum(loss - reference, 0) * weight)[rows].sum() / weight[rows].sum()
        raised = alpha * np.exp(0.7 * last)
        alpha = 0.99 * raised / raised.sum() + 0.01 / 3
        seen.append(alpha)
        excess_k = excess(jnp.asarray(loss), jnp.asarray(reference), jnp.asarray(weight), jnp.asarray(domain), state.excess_k)
        assert excess_k == pytest.approx(last, rel=1e-5)
        state = update(state, excess_k)
        assert state.alpha_k == pytest.approx(alpha, rel=1e-5)
    assert state.average_k == pytest.approx(np.mean(seen, 0), rel=1e-5) and int(state.steps) == 6
    assert doremi_init([1, 1]).average_k.tolist() == [0.5, 0.5]


def test_a_mixing_law_recovers_what_was_planted():
    random = np.random.default_rng(1)
    c, t = np.array([1.5, 2.0]), np.array([[-1.2, 0.3, -0.2], [0.4, -1.5, -0.4]])
    planted = MixingLaw(c, np.array([0.2, 0.1]), t, np.zeros(2))
    mixtures = random.dirichlet(np.ones(3), 16)
    law = MixingLaw.fit(mixtures, planted(mixtures))
    unseen = random.dirichlet(np.ones(3), 200)
    assert law(unseen) == pytest.approx(planted(unseen), abs=0.01) and (law.residual_i < 0.003).all()
    grid = np.array([(a, b, 60 - a - b) for a in range(61) for b in range(61 - a)]) / 60
    best = planted.best()
    assert planted(best).mean() <= planted(grid).mean(1).min() + 1e-4 and best.sum() == pytest.approx(1)
    only_first = planted.best(np.array([1.0, 0]))
    assert only_first[0] > 0.99
    for mixture, loss in ((mixtures[:4], np.ones((4, 2))), (mixtures * 2, np.ones((16, 2))), (mixtures, np.ones((3, 2)))):
        with pytest.raises(ValueError):
            MixingLaw.fit(mixture, loss)


def test_top_and_rho_keep_the_order_of_the_batch():
    loss, irreducible = jnp.array([3.0, 5, 1, 4]), jnp.array([2.9, 1, 0, 4.5])
    assert top(loss, 2).tolist() == [1, 3] and top(rho(loss, irreducible), 2).tolist() == [1, 2] and top(jnp.ones(4), 2).tolist() == [0, 1]
    assert softly(KEY, loss, 2, 1e-3).tolist() == [1, 3] and len(set(softly(KEY, loss, 3, 100.0).tolist())) == 3
    for call in (lambda: top(loss, 0), lambda: top(loss, 5), lambda: softly(KEY, loss, 2, 0)):
        with pytest.raises(ValueError):
            call()


@pytest.mark.parametrize("uniform", [0.0, 0.1, 1.0])
def test_importance_sampling_is_unbiased(uniform):
    norm, value = jnp.array([0.1, 1, 3, 0.5, 2]), jnp.array([0.2, -1, 4, 0.3, 2])
    index, weight = jax.vmap(lambda key: importance(key, norm, 3, uniform))(jax.random.split(KEY, 20_000))
    estimate = np.asarray(jnp.mean(weight * value[index], axis=1))
    assert estimate.mean() == pytest.approx(float(value.mean()), abs=4 * estimate.std() / np.sqrt(len(estimate)))
    assert uniform == 0 or float(weight.max()) <= 1 / uniform + 1e-5
    plain = np.asarray(jnp.mean(value[jax.random.randint(KEY, (20_000, 3), 0, 5)], axis=1))
    assert uniform == 1 or estimate.var() < 0.5 * plain.var()


def test_importance_corners():
    assert set(importance(KEY, jnp.zeros(4), 200)[0].tolist()) == {0, 1, 2, 3}
    for arguments in ((3, -0.1), (3, 1.1), (0, 0.5)):
        with pytest.raises(ValueError):
            importance(KEY, jnp.ones(4), *arguments)


def test_the_last_layer_norm_is_that_of_the_logit_gradient():
    logits, target, weight = jax.random.normal(KEY, (3, 4, 5)), jnp.arange(12).reshape(3, 4) % 5, jnp.array([[1, 1, 0, 1.0]] * 3)

    def loss(z):
        return -jnp.sum(weight[0] * jnp.take_along_axis(jax.nn.log_softmax(z), t[:, None], 1)[:, 0])

    for row, t in enumerate(target):
        assert last_layer_norm(logits, target, weight)[row] == pytest.approx(float(jnp.linalg.norm(jax.grad(loss)(logits[row]))), rel=1e-5)


def test_k_center_is_within_twice_the_best():
    x = np.random.default_rng(0).standard_normal((12, 2))
    chosen = k_center(x, 3)

    def radius(index):
        return np.linalg.norm(x[:, None] - x[list(index)], axis=2).min(1).max()

    assert chosen[0] == 0 and len(set(chosen.tolist())) == 3 and radius(chosen) <= 2 * min(map(radius, itertools.combinations(range(12), 3)))
    near = np.linalg.norm(x - x[0], axis=1)
    assert chosen[1] == near.argmax()
    assert sorted(k_center(np.ones((4, 2)), 4).tolist()) == [0, 1, 2, 3]
    for count, first in ((0, 0), (13, 0), (3, 12)):
        with pytest.raises(ValueError):
            k_center(x, count, first)


def test_dpp_is_greedy_on_the_determinant():
    random = np.random.default_rng(0)
    x, quality = random.standard_normal((15, 6)), random.uniform(0.5, 2, 15)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True) * quality[:, None]
    kernel, out = unit @ unit.T, []
    for _ in range(5):
        out.append(max((d for d in range(15) if d not in out), key=lambda d: np.linalg.slogdet(kernel[np.ix_([*out, d], [*out, d])])[1]))
    assert dpp_greedy(x, quality, 5).tolist() == out
    assert dpp_greedy(np.eye(4), [1, 4, 2, 3], 3).tolist() == [1, 3, 2]
    assert len(dpp_greedy(x[:, :2], quality, 6)) == 2
    for arguments in ((0, quality), (16, quality), (2, 0 * quality)):
        with pytest.raises(ValueError):
            dpp_greedy(x, arguments[1], arguments[0])


def test_projection_keeps_inner_products():
    g = jax.random.normal(KEY, (3, 5000))
    low = jnp.stack([project(jax.random.key(1), row, 2000, block=999) for row in g])
    cosine = lambda a, b: float(a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b))  # noqa: E731
    mixed = g[0] + 0.5 * g[1]
    assert cosine(project(jax.random.key(1), mixed, 2000, block=999), low[0]) == pytest.approx(cosine(mixed, g[0]), abs=0.06)
    assert abs(cosine(low[1], low[2]) - cosine(g[1], g[2])) < 0.1
    assert project(jax.random.key(1), mixed, 2000, block=999) == pytest.approx(np.asarray(low[0] + 0.5 * low[1]), rel=1e-3, abs=1e-3)


def test_influence_finds_the_examples_of_the_task():
    task = jnp.array([1.0, 0, 0, 0])
    x = jnp.concatenate([task + 0.1 * jax.random.normal(KEY, (5, 4)), jax.random.normal(jax.random.key(1), (15, 4)).at[:, 0].set(0)])

    def loss(w, row):
        return (row @ w - 1) ** 2

    train = features(loss, jnp.zeros(4), x, KEY, 512)[None]
    target = features(loss, jnp.zeros(4), task[None], KEY, 512)[None]
    score = influence(train, target, jnp.array([0.1])).max(1)
    assert set(np.argsort(-score)[:5].tolist()) == set(range(5))
    raw = influence(train, target, jnp.array([0.1]), normalise=False)
    exact = jnp.stack([jax.grad(loss)(jnp.zeros(4), row) for row in x]) @ jax.grad(loss)(jnp.zeros(4), task) * 0.1
    assert np.corrcoef(raw[:, 0], exact)[0, 1] > 0.95
    assert influence(0 * train, target, jnp.array([0.1])).tolist() == [[0]] * 20


def test_adam_direction_is_optaxs():
    import optax

    params, tx = {"w": jnp.arange(3.0)}, optax.scale_by_adam()
    state = tx.init(params)
    for step in range(3):
        gradient = {"w": jnp.sin(params["w"] + step)}
        ours = adam_direction(gradient, state.mu, state.nu, step)
        theirs, state = tx.update(gradient, state)
        assert ours["w"] == pytest.approx(np.asarray(theirs["w"]), rel=1e-4)  # optax rounds 1 − 0.999 to float32
