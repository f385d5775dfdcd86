"""Every positional encoding beside its paper's formula, pair by pair of positions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import nn, ops
from tests.tiny import close, init, random

# Irregular positions, so that buckets, clips and stages are all met; order in the row decides what is seen.
POSITIONS = np.array([0, 1, 2, 4, 9, 17, 18, 40, 130, 131])
HEADS, K = 4, 8


def alibi(slopes, scale=1.0):
    return lambda p, q, k, i, j, h: q @ k / math.sqrt(K) - slopes[h] * abs(i - j) * scale


def t5(bidirectional):
    def bucket(ahead):
        n, first = (16, 16 * (ahead > 0)) if bidirectional else (32, 0)
        distance = abs(ahead) if bidirectional else max(-ahead, 0)
        if distance < n // 2:
            return first + distance
        return first + min(n - 1, n // 2 + int(math.log(distance / (n // 2)) / math.log(128 / (n // 2)) * (n - n // 2) + 1e-9))

    return lambda p, q, k, i, j, h: q @ k / math.sqrt(K) + p["table"][bucket(j - i), h]


def tisa(p, q, k, i, j, h):
    bumps = p["amplitude"][:, h] * np.exp(-np.abs(p["sharpness"][:, h]) * (j - i - p["centre"][:, h]) ** 2)
    return q @ k / math.sqrt(K) + bumps.sum()


def softplus(x):
    return math.log1p(math.exp(x))


def kerple_log(p, q, k, i, j, h):
    return q @ k / math.sqrt(K) - softplus(p["r1"][h]) * math.log(1 + softplus(p["r2"][h]) * abs(i - j))


def kerple_power(p, q, k, i, j, h):
    return q @ k / math.sqrt(K) - softplus(p["r1"][h]) * abs(i - j) ** (2 / (1 + math.exp(-p["r2"][h])))


def sandwich(p, q, k, i, j, h):
    return q @ k / math.sqrt(K) + sum(math.cos((i - j) / 10000 ** (2 * f / 128)) for f in range(64)) * HEADS / (8 * (h + 1))


def fire(p, q, k, i, j, h):
    def psi(x):
        return math.log(1 + abs(p["c"]) * x)

    x = psi(abs(i - j)) / (psi(max(i, 20.0 * p["threshold_ratio"])) + 1e-6)
    return q @ k / math.sqrt(K) + (np.maximum(x * p["w1"][0] + p["b1"], 0) @ p["w2"] + p["b2"])[h]


def shaw(p, q, k, i, j, h):
    return q @ (k + p["table"][min(max(j - i, -16), 16) + 16]) / math.sqrt(K)


def disentangled(p, q, k, i, j, h):
    d, middle = i - j, 16
    if abs(d) > middle:
        d = int(math.copysign(middle + math.ceil(math.log(abs(d) / middle) / math.log(127 / middle) * (middle - 1) - 1e-9), d))
    delta = min(max(d + 32, 0), 63)
    return (q @ k + q @ p["keys"][delta, h] + k @ p["queries"][delta, h]) / math.sqrt(3 * K)


def transformer_xl(p, q, k, i, j, h):
    angle = (i - j) / 10000 ** (np.arange(0, K, 2) / K)
    r = np.concatenate([np.sin(angle), np.cos(angle)]) @ p["r"]["kernel"][:, h * K : (h + 1) * K]
    return ((q + p["u"][h]) @ k + (q + p["v"][h]) @ r) / math.sqrt(K)


def turned(q, k, distance, frequencies, zeta=1.0):
    """Re Σ q k* e^{iΔω} ζ^Δ of pairs as complex numbers."""
    half = len(q) // 2
    return np.real((q[:half] + 1j * q[half:]) * np.conj(k[:half] + 1j * k[half:]) * np.exp(1j * distance * frequencies) * zeta).sum() / math.sqrt(K)


def xpos(p, q, k, i, j, h):
    zeta = (np.arange(K // 2) / (K // 2) + 0.4) / 1.4
    return turned(q, k, i - j, 10000.0 ** (-np.arange(0, K, 2) / K), zeta ** ((i - j) / 512))


def dynamic(p, q, k, i, j, h):
    length = 8 if i < 8 else 16 if i < 16 else 32
    base = 10000.0 * (2 * length / 8 - 1) ** (K / (K - 2))
    return turned(q, k, i - j, base ** (-np.arange(0, K, 2) / K))


CASES = [
    (nn.ALiBi(), alibi([2**-2, 2**-4, 2**-6, 2**-8])), (nn.ALiBi(scaled=True), alibi([2**-2, 2**-4, 2**-6, 2**-8], K**-0.5)),
    (nn.T5Bias(), t5(False)), (nn.T5Bias(bidirectional=True), t5(True)), (nn.TISA(), tisa), (nn.KERPLELog(), kerple_log), (nn.KERPLEPower(), kerple_power),
    (nn.Sandwich(), sandwich), (nn.FIRE(threshold=20.0), fire), (nn.Shaw(), shaw), (nn.Disentangled(), disentangled), (nn.TransformerXL(), transformer_xl),
    (nn.XPos(), xpos), (nn.DynamicNTK(factor=2.0, trained_length=8), dynamic),
]  # fmt: skip


def brute_force(params, x_btd, score, kv_heads):
    """Softmax attention from the T × T scores of the formula, in float64."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    q, k, v = (np.asarray(x_btd[0], np.float64) @ p[name]["kernel"] for name in ("q", "k", "v"))
    q, k, v = q.reshape(-1, HEADS, K), k.reshape(-1, kv_heads, K), v.reshape(-1, kv_heads, K)
    out = np.zeros_like(q)
    for h in range(HEADS):
        g = h * kv_heads // HEADS
        for t, i in enumerate(POSITIONS):
            scores = np.array([score(p.get("position"), q[t, h], k[s, g], int(i), int(POSITIONS[s]), h) for s in range(t + 1)])
            weights = np.exp(scores - scores.max())
            out[t, h] = weights / weights.sum() @ v[: t + 1, g]
    return out.reshape(len(POSITIONS), -1) @ p["output"]["kernel"]


@pytest.mark.parametrize("position,score", CASES, ids=lambda c: type(c).__name__ if isinstance(c, nn.Position) else "")
def test_attention_is_the_softmax_of_the_papers_scores(position, score):
    mixer = nn.Attention(heads=HEADS, kv_heads=2, position=position)
    x_btd, positions = random((1, len(POSITIONS), HEADS * K), jnp.float32, 0), jnp.asarray(POSITIONS)[None]
    params = init(mixer, x_btd, positions=positions, segment_ids=None)

    def apply(params):
        return mixer.apply({"params": params}, x_btd, positions=positions, segment_ids=None)[0]

    close(jax.jit(apply)(params)[0], brute_force(params, x_btd, score, 2), 2e-5)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(apply(p)))))(params)
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_every_position_has_a_case():
    public = {getattr(nn, n) for n in nn.__all__ if isinstance(getattr(nn, n), type) and issubclass(getattr(nn, n), nn.Position)}
    assert public - {nn.Position, nn.RoPE} == {type(position) for position, _ in CASES}


def test_alibi_slopes_of_heads_that_are_no_power_of_two():
    eighths, sixteenths = 2.0 ** -np.arange(1, 9), 2.0 ** (-np.arange(1, 17) / 2)
    np.testing.assert_allclose(ops.alibi_slopes(8), eighths)
    np.testing.assert_allclose(ops.alibi_slopes(6), [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])
    np.testing.assert_allclose(ops.alibi_slopes(12), [*eighths, *sixteenths[::2][:4]])
    np.testing.assert_allclose(ops.alibi_slopes(1), [2**-8])


def test_xpos_does_not_depend_on_its_centre_and_holds_far_from_it():
    q, k = random((2, 1, 1, 1, 16), jnp.float32, 0)

    def score(i, j, centre):
        position = nn.XPos(centre=centre)
        a, b = position.rotate(q, q, jnp.array([[i]]))[0], position.rotate(k, k, jnp.array([[j]]))[1]
        return float(jnp.vdot(a, b))

    assert score(900, 300, 0) == pytest.approx(score(900, 300, 1024), rel=1e-3) == pytest.approx(score(900, 300, -5000), rel=1e-3)
    assert math.isfinite(score(35_000, 35_000, 1024)) and score(35_000, 35_000, 1024) == pytest.approx(score(0, 0, 1024), rel=1e-3)


def test_dynamic_ntk_is_rope_within_the_trained_length_and_ntk_aware_at_each_stage():
    x_btd, positions = random((1, 16, 32), jnp.float32, 0), jnp.arange(16)[None]
    rope, dynamic = nn.Attention(position=nn.RoPE()), nn.Attention(position=nn.DynamicNTK(trained_length=8, stages=1))
    params = init(rope, x_btd, positions=positions, segment_ids=None)

    def run(mixer):
        return mixer.apply({"params": params}, x_btd, positions=positions, segment_ids=None)[0]

    close(run(dynamic)[:, :8], run(rope)[:, :8], 1e-5)
    close(run(dynamic)[:, 8:], run(nn.Attention(position=nn.RoPE(scaling=nn.dynamic_ntk(1.0, 8, 16))))[:, 8:], 1e-5)
    assert nn.dynamic_ntk(2.0, 16, 12) == nn.NTKAware(1.0) and nn.dynamic_ntk(2.0, 16, 24) == nn.NTKAware(2.0)


@pytest.mark.parametrize(
    "position,words",
    [
        (nn.T5Bias(buckets=1), "buckets=1"), (nn.T5Bias(max_distance=16), "max_distance=16 must exceed 16"), (nn.TISA(kernels=0), "kernels=0 must be at least 1"),
        (nn.Sandwich(channels=7), "channels=7 must be an even number"), (nn.FIRE(threshold=0.0), "threshold=0.0 must be positive"),
        (nn.Shaw(clip=0), "clip=0 must be at least 1"), (nn.Disentangled(max_distance=17), "max_distance=17 more than 17"),
        (nn.TransformerXL(channels=3), "channels=3 must be an even number"), (nn.DynamicNTK(stages=0), "stages=0 positive"), (nn.DynamicNTK(trained_length=0), "trained_length=0"),
        (nn.RoPE(fraction=1.5), "fraction=1.5"), (nn.RoPE(fraction=-0.5), "fraction=-0.5"), (nn.XPos(scale_base=0.0), "scale_base=0.0 must be positive"),
    ],
    ids=lambda c: type(c).__name__ if isinstance(c, nn.Position) else "",
)  # fmt: skip
def test_what_cannot_be_is_named(position, words):
    x_btd = jnp.zeros((1, 3, 32))
    with pytest.raises(ValueError, match=words):
        nn.Attention(position=position).init(jax.random.key(0), x_btd, positions=jnp.zeros((1, 3), jnp.int32), segment_ids=None)


@pytest.mark.parametrize("position", [nn.XPos(), nn.T5Bias()], ids=lambda p: type(p).__name__)
def test_a_position_for_earlier_keys_alone_is_refused_where_both_sides_are_seen(position):
    with pytest.raises(ValueError, match=rf"position={type(position).__name__} serves earlier keys alone.*RoPE.*T5Bias\(bidirectional=True\)"):
        nn.Attention(position=position, bidirectional=True).dims(32)
    for other in (nn.ALiBi(), nn.T5Bias(bidirectional=True)):
        assert nn.Attention(position=other, bidirectional=True).dims(32) == (4, 8)


@pytest.mark.parametrize("position", [nn.Shaw(), nn.Disentangled()], ids=lambda p: type(p).__name__)
def test_a_position_that_scales_what_it_says_of_queries_is_refused_with_another_scale(position):
    with pytest.raises(ValueError, match=f"scale=1.0 does not reach what position={type(position).__name__} says of queries.*scale=None"):
        nn.Attention(position=position, scale=1.0).dims(32)
    assert nn.Attention(position=nn.ALiBi(), scale=1.0).dims(32) == nn.Attention(position=position).dims(32) == (4, 8)
