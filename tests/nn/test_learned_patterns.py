"""Learned sparse patterns against their papers' definitions, query by query."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from jax.test_util import check_grads
from scipy.optimize import brentq

from effllm import nn, ops
from tests.tiny import close, init, inputs

T, HEADS, K = 14, 4, 8


def split(x, kernel):
    """(heads, T, K)."""
    return (np.asarray(x[0]) @ np.asarray(kernel)).reshape(T, HEADS, K).swapaxes(0, 1)


def built(mixer):
    """(parameters, q, k, v … by name, y (T, D)) of one row without packing."""
    x, positions = inputs(1, T)
    p = init(mixer, x, positions=positions, segment_ids=None)
    y, _ = jax.jit(lambda x: mixer.apply({"params": p}, x, positions=positions, segment_ids=None))(x)
    return p, {n: split(x, p[n]["kernel"]) for n in ("q", "k", "v", "landmark", "ask", "offer") if n in p}, y[0]


def merged(o, p):
    return o.swapaxes(0, 1).reshape(T, -1) @ np.asarray(p["output"]["kernel"])


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def by_sorting(z, alpha):
    """The closed forms of sparsemax (Martins & Astudillo 2016) and 1.5-entmax (Peters et al. 2019, algorithm 2)."""
    z = z * (alpha - 1)
    s = np.sort(z)[::-1]
    n = np.arange(1, len(z) + 1)
    mean = s.cumsum() / n
    tau = (s.cumsum() - 1) / n if alpha == 2 else mean - np.sqrt(np.maximum((1 - n * ((s**2).cumsum() / n - mean**2)) / n, 0))
    tau = tau[(tau <= s).sum() - 1]
    return np.maximum(z - tau, 0) ** (1 / (alpha - 1))


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_entmax_is_its_closed_form(alpha):
    z = np.random.default_rng(0).normal(size=(20, 11)) * 2
    p = np.asarray(ops.entmax(jnp.asarray(z, jnp.float32), jnp.float32(alpha)))
    close(p, np.stack([by_sorting(row, alpha) for row in z]), 2e-6)
    assert 0.2 < (p == 0).mean() < 0.95
    close(ops.entmax(jnp.asarray(z, jnp.float32), jnp.float32(1.01)), np.stack([softmax(row) for row in z]), 0.1)


@pytest.mark.parametrize("alpha", [1.01, 1.2, 1.5, 2.0])
@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 300.0])
def test_the_threshold_of_entmax_is_the_root(alpha, spread):
    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(5, 700)) * spread + 40
        p = np.asarray(jax.jit(ops.entmax)(jnp.asarray(z), jnp.float64(alpha)))
    for row, found in zip((alpha - 1) * z, p):
        tau = brentq(lambda tau: (np.maximum(row - tau, 0) ** (1 / (alpha - 1))).sum() - 1, row.max() - 1, row.max(), xtol=1e-15)
        np.testing.assert_allclose(found, np.maximum(row - tau, 0) ** (1 / (alpha - 1)), atol=1e-11)


def test_entmax_of_many_scores_is_as_exact_as_their_type():
    z = (np.random.default_rng(0).normal(size=50_000) * 1e-3).astype(np.float32)
    assert np.abs(np.asarray(jax.jit(ops.entmax)(jnp.asarray(z), jnp.float32(2))) - by_sorting(z.astype(np.float64), 2)).sum() < 1e-5


def test_entmax_inside_shard_map():
    rows = PartitionSpec("rows")
    mapped = jax.shard_map(lambda z: ops.entmax(z, 1.5), mesh=Mesh(np.array(jax.devices()[:2]), "rows"), in_specs=rows, out_specs=rows)
    z = jax.random.normal(jax.random.key(0), (4, 9))
    close(jax.jit(mapped)(z), ops.entmax(z, 1.5), 1e-6)


def test_entmax_has_the_gradients_of_the_exact_solution_and_ignores_what_is_hidden():
    with jax.enable_x64(True):
        z = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 7)) * 1.5)
        check_grads(ops.entmax, (z, jnp.asarray([[1.3], [1.7]])), order=1, modes=["rev"], atol=1e-5, rtol=1e-5)
        hidden = z.at[..., 3:].set(-jnp.inf)
        close(ops.entmax(hidden, 1.5)[..., :3], ops.entmax(z[..., :3], 1.5), 1e-12)
        assert not ops.entmax(hidden.at[0].set(-jnp.inf), 1.5)[0].any()
        assert jnp.isfinite(jax.grad(lambda z: (ops.entmax(z, 1.5) ** 2).sum())(hidden.at[0].set(-jnp.inf))).all()


def test_entmax_attention():
    p, x, y = built(nn.EntmaxAttention(position=None, chunk=5))
    alpha = 1.01 + 0.99 / (1 + np.exp(-np.asarray(p["alpha"])))
    o = np.zeros_like(x["v"])
    for h in range(HEADS):
        for t in range(T):
            z = x["k"][h, : t + 1] @ x["q"][h, t] / np.sqrt(K)
            o[h, t] = np.asarray(ops.entmax(jnp.asarray(z), jnp.float32(alpha[h]))) @ x["v"][h, : t + 1]
    close(y, merged(o, p), 1e-5)


@pytest.mark.parametrize("retrieved", [None, 1])
def test_landmark_attention(retrieved):
    block = 4
    p, x, y = built(nn.LandmarkAttention(block=block, retrieved=retrieved, position=None, chunk=6))
    o = np.zeros_like(x["v"])
    for h in range(HEADS):
        for t in range(T):
            z, mark = x["k"][h] @ x["q"][h, t] / np.sqrt(K), x["landmark"][h] @ x["q"][h, t] / np.sqrt(K)
            begin = t // block * block
            marks = np.array([mark[b + block - 1] for b in range(0, begin, block)])
            if retrieved is not None and len(marks):
                marks[marks < np.sort(marks)[-retrieved]] = -np.inf
            weights = softmax(np.concatenate([z[begin : t + 1], marks]))
            o[h, t] = weights[: t + 1 - begin] @ x["v"][h, begin : t + 1]
            for w, b in zip(weights[t + 1 - begin :], range(0, begin, block)):
                o[h, t] += w * (softmax(z[b : b + block]) @ x["v"][h, b : b + block])
    close(y, merged(o, p), 1e-5)


def test_a_block_as_long_as_the_text_is_attention():
    x, positions = inputs(1, T)
    mixer = nn.LandmarkAttention(block=T)
    p = init(mixer, x, positions=positions, segment_ids=None)
    y, _ = mixer.apply({"params": p}, x, positions=positions, segment_ids=None)
    plain, _ = nn.Attention().apply({"params": {n: p[n] for n in ("q", "k", "v", "output")}}, x, positions=positions, segment_ids=None)
    close(y, plain, 1e-5)


def hyper(p, x, block, samples, buckets):
    """(o, whether any query has sampled keys outside its block) by HyperAttention's definition with these hash buckets (heads, T) of q and k."""
    o, outside = np.zeros_like(x["v"]), False
    for h in range(HEADS):
        places = [np.argsort(np.argsort(b[h], kind="stable")) // block for b in buckets]
        sampled = ((np.arange(samples) + 0.5) * T / samples).astype(int)
        for t in range(T):
            z = x["k"][h] @ x["q"][h, t] / np.sqrt(K)
            near = np.flatnonzero(places[1] == places[0][t])
            far = [s for s in sampled if places[1][s] != places[0][t]]
            outside |= len(far) > 0
            w = np.concatenate([np.exp(z[near]), np.exp(z[far]) * T / samples])
            o[h, t] = w @ np.concatenate([x["v"][h, near], x["v"][h, far]]) / w.sum()
    return o, outside


def test_hyper_attention():
    mixer = nn.HyperAttention(block=5, samples=4, bits=3)
    p, x, y = built(mixer)
    direction = np.asarray(jax.random.normal(jax.random.key(0), (HEADS, K, 3)))
    gray = {0: 0, 1: 1, 3: 2, 2: 3, 6: 4, 7: 5, 5: 6, 4: 7}  # neighbours differ in one bit
    codes = [np.vectorize(gray.get)(((np.einsum("htk,hkf->htf", x[n], direction) > 0) * [4, 2, 1]).sum(-1)) for n in ("q", "k")]
    o, outside = hyper(p, x, 5, 4, codes)
    assert outside
    close(y, merged(o, p), 1e-5)


def test_hyper_attention_of_one_block_is_exact():
    p, x, y = built(nn.HyperAttention(block=T))
    o = np.stack([np.stack([softmax(x["k"][h] @ q / np.sqrt(K)) @ x["v"][h] for q in x["q"][h]]) for h in range(HEADS)])
    close(y, merged(o, p), 1e-5)


def test_clustered_attention():
    p, x, y = built(nn.ClusteredAttention(clusters=3, iterations=4))
    o = np.zeros_like(x["v"])
    for h in range(HEADS):
        q = x["q"][h]
        centre = q[[(2 * c + 1) * T // 6 for c in range(3)]]
        for _ in range(4):
            member = ((q[:, None] - centre) ** 2).sum(-1).argmin(1)
            centre = np.stack([q[member == c].mean(0) if (member == c).any() else centre[c] for c in range(3)])
        member = ((q[:, None] - centre) ** 2).sum(-1).argmin(1)
        for c in set(member):
            o[h, member == c] = softmax(x["k"][h] @ q[member == c].mean(0) / np.sqrt(K)) @ x["v"][h]
    close(y, merged(o, p), 1e-5)


def test_sinkhorn_is_nearly_doubly_stochastic_within_its_mask():
    mask = np.zeros((6, 6), bool)
    mask[:4, :4] = mask[4:5, 4:5] = True
    r = np.asarray(ops.sinkhorn(jnp.asarray(np.random.default_rng(0).normal(size=(6, 6)), jnp.float32), jnp.asarray(mask), 30))
    close(r.sum(0), [1, 1, 1, 1, 1, 0], 1e-4)
    close(r.sum(1), [1, 1, 1, 1, 1, 0], 1e-4)
    assert not r[~mask].any()


def test_sinkhorn_attention():
    block, blocks = 4, 4  # of which the last has 2 tokens
    p, x, y = built(nn.SinkhornAttention(block=block, iterations=2))
    o = np.zeros_like(x["v"])
    for h in range(HEADS):
        ask, offer = (np.stack([x[n][h, b * block : (b + 1) * block].mean(0) for b in range(blocks)]) for n in ("ask", "offer"))
        r = np.exp(ask @ offer.T / np.sqrt(K))
        for _ in range(2):
            r = r / r.sum(1, keepdims=True)
            r = r / r.sum(0, keepdims=True)
        places = {n: np.pad(x[n][h], ((0, 2), (0, 0))).reshape(blocks, block, K) for n in ("k", "v")}
        for t in range(T):
            own, (k, v) = slice(t // block * block, min(T, (t // block + 1) * block)), (np.einsum("m,mck->ck", r[t // block], places[n]) for n in ("k", "v"))
            keys, values = np.concatenate([x["k"][h, own], k]), np.concatenate([x["v"][h, own], v])
            o[h, t] = softmax(keys @ x["q"][h, t] / np.sqrt(K)) @ values
    close(y, merged(o, p), 1e-5)


@pytest.mark.parametrize(
    "mixer,words",
    [
        (nn.EntmaxAttention(chunk=0), "chunk=0"), (nn.LandmarkAttention(block=0), "block=0"), (nn.LandmarkAttention(retrieved=0), "retrieved=0"),
        (nn.HyperAttention(bits=0), "bits=0"), (nn.HyperAttention(bits=28), "bits=28 give more buckets for each of documents=8"), (nn.HyperAttention(samples=-1), "samples=-1"), (nn.ClusteredAttention(clusters=0), "clusters=0"),
        (nn.SinkhornAttention(block=0), "block=0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(mixer, words):
    x, positions = inputs(1, T)
    with pytest.raises(ValueError, match=words):
        mixer.init(jax.random.key(0), x, positions=positions, segment_ids=None)
