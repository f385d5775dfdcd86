"""Scores, draws and prunings against their definitions."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm.data.dedup.kmeans import kmeans
from effllm.data.filters import quantile
from effllm.data.selection import (
    DSIR, bald, bucket_counts, dpp_greedy, el2n, entropy, forgetting_events, forgetting_update, gumbel_topk, importance_undersample, k_center, least_confidence,
    margin, prototype_distance, prune, random_undersample, sample_by_rating, sequence_el2n, temperature_mix, unimax,
)  # fmt: skip
from tests.data.filters.texts import text
from tests.data.selection import make_goldens

GOLDEN = json.loads(Path(__file__).with_name("dsir.json").read_text())
KEY = jax.random.key(0)


def test_dsir_is_the_authors():
    assert bucket_counts(text(0), 2, make_goldens.BUCKETS).tolist() == GOLDEN["counts"]
    raw, target = [text(seed) for seed in make_goldens.RAW], [text(seed) for seed in make_goldens.TARGET]
    ours = DSIR.fit(target, raw, buckets=make_goldens.BUCKETS, smoothing=0).log_weights(raw)
    assert ours == pytest.approx(GOLDEN["log_weights"], abs=1e-7)
    assert np.std(ours) > 10


@pytest.mark.skipif(importlib.util.find_spec("data_selection") is None, reason="data-selection is not installed; its stored numbers are compared above")
def test_the_stored_numbers_are_the_librarys():
    assert make_goldens.dsir() == GOLDEN


def test_dsir_prefers_the_target_and_smoothing_helps_with_few_texts():
    a, b = [f"the red fox {i} runs over hills" for i in range(30)], [f"loss of model {i} under noise" for i in range(30)]
    model = DSIR.fit(a[:3], a[3:] + b, buckets=1000)
    weights = model.log_weights(a[3:] + b)
    assert weights[:27].min() > weights[27:].max()
    for call, words in ((lambda: DSIR.fit([], a), "target"), (lambda: DSIR.fit(a, ["", " "]), "raw"), (lambda: DSIR.fit(a, b, smoothing=-1), "smoothing=-1")):
        with pytest.raises(ValueError, match=words):
            call()


def test_gumbel_topk_draws_as_it_should():
    p = np.array([0.5, 0.3, 0.15, 0.05])
    draws = np.asarray(jax.vmap(lambda key: gumbel_topk(key, jnp.log(p), 2))(jax.random.split(KEY, 20_000)))
    first = np.bincount(draws[:, 0], minlength=4) / len(draws)
    assert first == pytest.approx(p, abs=4 * np.sqrt(0.25 / len(draws)))
    second = np.bincount(draws[draws[:, 0] == 0][:, 1], minlength=4) / (draws[:, 0] == 0).sum()
    assert second == pytest.approx([0, 0.6, 0.3, 0.1], abs=0.02) and (draws[:, 0] != draws[:, 1]).all()
    assert gumbel_topk(KEY, jnp.array([0.0, -jnp.inf, 0.0]), 2).tolist() in ([0, 2], [2, 0])
    assert np.array_equal(gumbel_topk(KEY, jnp.log(p), 4), gumbel_topk(KEY, jnp.log(p), 4))
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"{count} of 4"):
            gumbel_topk(KEY, jnp.log(p), count)


@pytest.mark.parametrize("call,words", [
    (lambda: gumbel_topk(KEY, jnp.array([0.0, jnp.nan]), 1), "weight of document 1 is not a number"),
    (lambda: gumbel_topk(KEY, jnp.array([0.0, -jnp.inf, -jnp.inf]), 2), "2 documents are to be drawn and only 1"),
    (lambda: importance_undersample(KEY, np.array([0, 0, 1]), np.array([-np.inf, -np.inf, 0])), "only 0"),
    (lambda: k_center(np.array([[np.nan, 0], [1, 0], [2, 0]]), 2), "embedding 0 is not finite"),
    (lambda: dpp_greedy(np.array([[1.0, 0], [np.inf, 0]]), np.ones(2), 1), "embedding 1 is not finite"),
    (lambda: dpp_greedy(np.array([[1.0, 0], [0, 0]]), np.ones(2), 1), "embedding 1 is zero"),
    (lambda: quantile([1.0, np.nan, 2.0], 0.5), "a score is NaN"),
])
def test_what_has_no_order_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_traced_draw_excludes_without_being_checked():
    assert jax.jit(lambda logw_d: gumbel_topk(KEY, logw_d, 2))(jnp.array([-jnp.inf, 0.0, 0.0])).tolist() in ([1, 2], [2, 1])


def test_rating_temperature():
    rating = jnp.arange(8.0)
    assert sorted(sample_by_rating(KEY, rating, 3, 1e-3).tolist()) == [5, 6, 7]
    with pytest.raises(ValueError, match="temperature=0"):
        sample_by_rating(KEY, rating, 3, 0)


def test_undersampling_balances():
    classes = np.array(["a"] * 50 + ["b"] * 10 + ["c"] * 20)
    keep = random_undersample(KEY, classes)
    assert [np.sum(keep & (classes == c)) for c in "abc"] == [10, 10, 10]
    keep = importance_undersample(KEY, classes, np.where(np.arange(80) < 12, 40.0, 0), ratio=1.5)
    assert [np.sum(keep & (classes == c)) for c in "abc"] == [15, 10, 15] and keep[:12].all()
    assert random_undersample(KEY, np.zeros(0)).tolist() == []
    hits = sum(random_undersample(key, np.array([0, 0, 0, 1])).astype(int) for key in jax.random.split(KEY, 300))
    assert hits[3] == 300 and (np.abs(hits[:3] - 100) < 40).all()
    with pytest.raises(ValueError, match="ratio=0.9"):
        random_undersample(KEY, classes, 0.9)
    with pytest.raises(ValueError, match="80 classes and 3 weights"):
        importance_undersample(KEY, classes, np.zeros(3))


@pytest.mark.parametrize("part,expected", [("bottom", [1, 3]), ("middle", [4, 5]), ("top", [0, 2])])
def test_prune_keeps_the_part(part, expected):
    score = [9.0, 1, 8, 1, 4, 5]
    assert np.flatnonzero(prune(score, 1 / 3, part)).tolist() == expected
    assert prune(score, 1, part).all() and prune(score, 1e-9, part).sum() == 1


@pytest.mark.parametrize("arguments,words", [(([1], 0, "top"), "keep=0"), (([1], 1.01, "top"), "keep=1.01"), (([], 0.5, "top"), "of 0"), (([1], 0.5, "best"), "'best'"), (([1, np.nan], 0.5, "top"), "document 1")])
def test_prune_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        prune(*arguments)


def test_el2n_is_the_norm_and_the_logit_gradient():
    logits, target = jax.random.normal(KEY, (5, 7)), jnp.arange(5)
    expected = np.linalg.norm(np.asarray(jax.nn.softmax(logits)) - np.eye(7)[:5], axis=1)
    assert el2n(logits, target) == pytest.approx(expected, rel=1e-5)
    gradient = jax.grad(lambda z: -jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(z), target[:, None], 1)))(logits)
    assert np.linalg.norm(gradient, axis=1) == pytest.approx(expected, rel=1e-5)
    assert el2n(jnp.array([[1e4, 0.0]]), jnp.array([0])) == pytest.approx([0.0], abs=1e-6) and np.isfinite(el2n(jnp.array([[-1e9, 1e9]]), jnp.array([0]))).all()
    weight = jnp.array([[1, 1, 0, 0, 0.0]])
    assert sequence_el2n(logits[None], target[None], weight) == pytest.approx([expected[:2].mean()], rel=1e-5)
    assert sequence_el2n(logits[None], target[None], 0 * weight).tolist() == [0]


def test_forgetting_counts_falls():
    correct = np.array([[1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 1, 1]], bool)
    assert forgetting_events(correct).tolist() == [2, 4, 0, 1]
    events = jnp.zeros(4, jnp.int32)
    for before, now in zip(correct, correct[1:]):
        events = forgetting_update(events, before, now)
    assert events.tolist() == [2, 0, 0, 1]


def test_prototypes():
    x = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)
    centre, label = kmeans(x, 3, seed=2)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert prototype_distance(x, 3, seed=2) == pytest.approx([1 - u @ centre[l] for u, l in zip(unit, label)], abs=1e-6)


def test_uncertainty():
    p = np.array([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3], [1, 0, 0]])
    logits = jnp.log(jnp.asarray(p))
    assert entropy(logits) == pytest.approx([-np.sum(q[q > 0] * np.log(q[q > 0])) for q in p], abs=1e-6)
    assert least_confidence(logits) == pytest.approx([0.3, 2 / 3, 0], abs=1e-6)
    assert margin(logits) == pytest.approx([0.5, 1, 0], abs=1e-6)
    committee = jnp.log(jnp.array([[[0.9, 0.1], [0.5, 0.5], [1, 0]], [[0.1, 0.9], [0.5, 0.5], [0, 1]]]))
    h = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert bald(committee) == pytest.approx([np.log(2) - h, 0, np.log(2)], abs=1e-6)


def test_mixtures():
    size = np.array([1000.0, 100, 10])
    assert temperature_mix(size, 1) == pytest.approx(size / 1110)
    assert temperature_mix(size, 2) == pytest.approx(np.sqrt(size) / np.sqrt(size).sum()) and temperature_mix(size, 1e9) == pytest.approx([1 / 3] * 3)
    assert temperature_mix([1e300, 1e-300], 1).tolist() == [1, 0]
    assert unimax(size, 300, 4) == pytest.approx([130 / 300, 130 / 300, 40 / 300])
    assert unimax(size, 600, 4) == pytest.approx([280 / 600, 280 / 600, 40 / 600])
    assert unimax(size, 1000, 4) == pytest.approx([560 / 1000, 400 / 1000, 40 / 1000]) and unimax(size, 30) == pytest.approx([1 / 3] * 3)
    assert unimax(size, 1e9, 4) == pytest.approx(size / 1110)
    for call in (lambda: temperature_mix(size, 0), lambda: temperature_mix([1, 0], 1), lambda: unimax([], 1), lambda: unimax(size, 0), lambda: unimax(size, 1, 0)):
        with pytest.raises(ValueError):
            call()
