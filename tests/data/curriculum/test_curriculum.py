"""Curricula: published schedules, what a step may read, exact resume, few shapes."""

import importlib.util
import json
import time
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm.data.curriculum import (
    BucketOrder, Competence, ExponentialPacing, LengthWarmup, LinearPacing, LogPacing, RootPacing, Stages, StepPacing, bucketed, compression, decompose,
    ease_first, length, loss, mixed_batch, perplexity, rarity, shortened, unigram,
)  # fmt: skip
from tests.data.curriculum import make_goldens

PACINGS = [LinearPacing(), RootPacing(), RootPacing(degree=3), LogPacing(), ExponentialPacing(), StepPacing(), StepPacing(levels=4), Competence(), Competence(power=1), LinearPacing(start=1.0), LinearPacing(duration=1.0)]
GOLDEN = json.loads(Path(__file__).with_name("deepspeed.json").read_text())


@pytest.mark.parametrize("pacing", PACINGS, ids=repr)
def test_pacings_start_rise_and_end(pacing):
    steps = 200
    end = int(pacing.duration * steps)
    share = np.asarray(jax.jit(jax.vmap(lambda t: pacing(t, steps)))(jnp.arange(steps + 1)))
    assert share[0] == pytest.approx(pacing.start, abs=1e-3) and share[end:] == pytest.approx(np.ones(steps + 1 - end), abs=1e-6)
    assert (np.diff(share) >= -1e-6).all() and (share > 0).all() and (share <= 1 + 1e-6).all()
    assert float(pacing(17, steps)) == pytest.approx(float(share[17]), abs=1e-6)


def test_pacings_are_their_formulas_and_ordered():
    at = lambda pacing: float(pacing(25, 100))  # noqa: E731
    assert at(LinearPacing()) == pytest.approx(0.55) and at(RootPacing()) == pytest.approx(0.1 + 0.9 * 0.5**0.5) and at(StepPacing()) == pytest.approx(0.1)
    assert at(Competence()) == pytest.approx((0.5 * (1 - 1e-4) + 1e-4) ** 0.5) and at(StepPacing(levels=4)) == pytest.approx(0.55)
    assert at(ExponentialPacing()) < at(LinearPacing()) < at(RootPacing()) < at(LogPacing())
    assert float(StepPacing(levels=4)(24, 100)) == pytest.approx(0.325)
    for bad in ({"start": 0}, {"start": 1.1}, {"duration": 0}, {"duration": 2}):
        with pytest.raises(ValueError, match="give shares"):
            LinearPacing(**bad)


def test_difficulties():
    token, weight = jnp.array([[0, 1, 2, 2], [3, 3, 0, 0]]), jnp.array([[1, 1, 1, 0], [1, 1, 0, 0.0]])
    logp = unigram(token, weight, 4)
    assert np.exp(logp) == pytest.approx(np.array([2, 2, 2, 3]) / 9)
    assert length(weight).tolist() == [3, 2]
    assert rarity(token, weight, logp) == pytest.approx([-3 * np.log(2 / 9), -2 * np.log(3 / 9)], rel=1e-5)
    nll = jnp.array([[1.0, 2, 3, 99], [4, 6, 99, 99]])
    assert loss(nll, weight).tolist() == [2, 5] and perplexity(nll, weight) == pytest.approx(np.exp([2, 5]), rel=1e-5)
    assert loss(nll, 0 * weight).tolist() == [0, 0]
    assert compression([b"a" * 100, b"", b"qz"]).tolist() == [len(zlib.compress(b"a" * 100)) / 100, 0, len(zlib.compress(b"qz")) / 2]
    assert ease_first(jnp.array([3.0, 1, 2, 1])).tolist() == [1, 3, 2, 0] and ease_first(jnp.array([3.0, 1, 2, 1]), hardest_first=True).tolist() == [0, 2, 1, 3]
    assert jax.jit(jax.vmap(lambda t, w: rarity(t, w, logp)))(token, weight) == pytest.approx(np.asarray(rarity(token, weight, logp)))


def test_length_warmup_is_deepspeeds():
    for case, expected in zip(make_goldens.CASES, GOLDEN, strict=True):
        minimum, maximum, steps, multiple, degree = case
        schedule = LengthWarmup(maximum, minimum, steps, multiple, degree)
        assert [schedule(step) for step in make_goldens.STEPS] == expected, case
        there = jax.vmap(schedule.at)(jnp.array(make_goldens.STEPS))
        assert (np.abs(np.asarray(there) - expected) <= multiple).all() and there[0] == expected[0] and there[-1] == maximum


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed; its stored numbers are compared above")
def test_the_stored_schedules_are_deepspeeds():
    assert make_goldens.deepspeed() == GOLDEN


def test_a_minimum_that_is_no_multiple_is_rounded_up():
    """DeepSpeed rounds it down, to a length of 0 in the first case."""
    assert [LengthWarmup(512, 8, 300, 16)(step) for step in (0, 1, 4, 5, 300)] == [16, 16, 16, 16, 512]
    assert [LengthWarmup(1000, 100, 77, 8)(step) for step in (0, 1, 77)] == [104, 104, 1000]


def test_warmup_compiles_once_a_length():
    schedule, traced = LengthWarmup(16, 4, steps=50, multiple=4), []

    @jax.jit
    def step(batch):
        traced.append(batch["tokens"].shape)
        return jnp.sum(batch["tokens"])

    batch = {"tokens": np.arange(48).reshape(3, 16), "targets": np.arange(48).reshape(3, 16) + 1}
    for t in range(60):
        short = shortened(batch, schedule(t))
        step(short)
        assert np.array_equal(short["targets"], short["tokens"] + 1)
    assert [shape[1] for shape in traced] == list(schedule.lengths) == [4, 8, 12, 16]
    for bad in ({"minimum": 0}, {"minimum": 17}, {"steps": 0}, {"multiple": 0}, {"degree": 0}):
        with pytest.raises(ValueError):
            LengthWarmup(16, **bad)


def test_decompose():
    assert decompose(13, 8) == [8, 4, 1] and decompose(13, 8, 4) == [8, 4] and decompose(16, 8) == [8, 8] and decompose(3, 8, 4) == [] and decompose(0, 8) == []
    assert all(sum(decompose(n, 16)) == n for n in range(200))
    for bad in ((12, 1), (8, 3), (4, 8), (8, 0)):
        with pytest.raises(ValueError):
            decompose(5, *bad)


def test_buckets_lose_only_what_is_too_short_and_batches_have_equal_tokens():
    random = np.random.default_rng(0)
    documents = [random.integers(1, 1000, n) for n in random.integers(1, 200, 60)]
    parts = bucketed(documents, 64, 4)
    kept = sorted(row.tobytes() for array in parts.values() for row in array)
    expected = []
    for document in documents:
        for at, size in zip(np.cumsum([0, *decompose(len(document), 64, 4)]), decompose(len(document), 64, 4)):
            expected.append(document[at : at + size].astype(np.int32).tobytes())
    assert kept == sorted(expected) and set(parts) == {4, 8, 16, 32, 64}
    sizes = {length: len(array) for length, array in parts.items()}
    order, seen = BucketOrder(sizes, tokens=128, seed=1), []
    for step in range(order.cycle):
        length, index = order(step)
        assert length * len(index) == 128 and len(set(index.tolist())) == len(index)
        seen += [(length, int(i)) for i in index]
    assert len(set(seen)) == len(seen) and all(sizes[n] - sum(length == n for length, _ in seen) < 128 // n for n in sizes)
    again = BucketOrder(sizes, tokens=128, seed=1)
    for step in (order.cycle + 3, 2, order.cycle - 1):
        assert again(step)[0] == order(step)[0] and np.array_equal(again(step)[1], order(step)[1])


def test_a_step_of_a_large_bucket_does_not_shuffle_it_anew():
    order = BucketOrder({128: 4_000_000}, 1 << 22)
    first = order(0)[1]
    start = time.process_time()
    steps = [order(step)[1] for step in range(1, 40)]
    assert time.process_time() - start < 0.5
    assert len(np.unique(np.concatenate([first, *steps]))) == 40 << 15


def test_grow_reads_short_first_and_shrink_long():
    sizes = {8: 160, 16: 80, 32: 40, 64: 20}
    early = {}
    for curriculum in ("grow", "uniform", "shrink"):
        order = BucketOrder(sizes, tokens=64, curriculum=curriculum)
        early[curriculum] = np.mean([order(step)[0] for step in range(order.cycle // 4)])
    assert early["grow"] < 0.7 * early["uniform"] < early["uniform"] < 0.8 * early["shrink"]
    for bad in ({"tokens": 48}, {"tokens": 32}, {"tokens": 64, "curriculum": "up"}):
        with pytest.raises(ValueError):
            BucketOrder(sizes, **bad)
    with pytest.raises(ValueError, match="no bucket holds"):
        BucketOrder({8: 3}, tokens=64)


def test_stages():
    plain = Stages((0, 0.5, 0.9), ((1, 1), (1, 3), (0, 1)))
    at = jax.jit(jax.vmap(lambda t: plain(t, 100)))(jnp.array([0, 49, 50, 89, 90, 99]))
    assert np.asarray(at) == pytest.approx(np.array([[0.5, 0.5], [0.5, 0.5], [0.25, 0.75], [0.25, 0.75], [0, 1], [0, 1]]))
    blend = Stages((0, 0.5), ((1, 0), (0, 1)), blend=True)
    assert blend(25, 100).tolist() == [0.5, 0.5] and blend(75, 100).tolist() == [0, 1]
    for bad in (((0.1,), ((1,),)), ((0, 0), ((1,), (1,))), ((0, 1.0), ((1,), (1,))), ((0,), ((1,), (1,))), ((), ()), ((0,), ((0, 0),)), ((0,), ((-1, 2),)), ((0, 0.5), ((1,), (1, 2)))):
        with pytest.raises(ValueError):
            Stages(*bad)


def test_a_mixed_batch_holds_its_shares():
    sizes, share, counts = (5, 1000, 0), np.array([0.3, 0.7, 0]), np.zeros(3)
    for step in range(300):
        domain, index = mixed_batch(1, step, share, sizes, 8)
        count = np.bincount(domain, minlength=3)
        assert (np.abs(count - 8 * share) < 1).all() and (index < np.array(sizes)[domain]).all()
        counts += count
    assert counts / counts.sum() == pytest.approx(share, abs=0.01)
    a, b = mixed_batch(1, 5, share, sizes, 8), mixed_batch(1, 5, share, sizes, 8)
    assert np.array_equal(a, b) and not np.array_equal(a, mixed_batch(2, 5, share, sizes, 8))
    with pytest.raises(ValueError, match="domain 2 has weight 0.1 but no records"):
        mixed_batch(0, 0, np.array([0.3, 0.6, 0.1]), sizes, 8)
