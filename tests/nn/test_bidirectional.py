"""Mixers that see both sides, against their papers' formulas written out for one document."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import nn, ops
from tests.tiny import close, init, inputs, random

HEADS, T = 4, 12


def split(x, kernel):
    """(heads, T, K) projection of x (T, D)."""
    y = np.asarray(x) @ np.asarray(kernel)
    return y.reshape(len(y), HEADS, -1).swapaxes(0, 1)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(q, k, v):
    return softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])) @ v


def merged(o, kernel):
    return o.swapaxes(0, 1).reshape(o.shape[1], -1) @ np.asarray(kernel)


def built(mixer):
    """(x (T, D), parameters, y (T, D)) of one row without packing."""
    x, positions = inputs(1, T)
    params = init(mixer, x, positions=positions, segment_ids=None)
    y, _ = mixer.apply({"params": params}, x, positions=positions, segment_ids=None)
    return np.asarray(x[0]), params, y[0]


def kernels(params, *names):
    return [params[n]["kernel"] for n in names]


def test_linformer_compresses_keys_and_values():
    x, p, y = built(nn.Linformer(rank=5, length=20))
    q, k, v = (split(x, w) for w in kernels(p, "q", "k", "v"))
    e, f = (np.asarray(p[n])[:T].T for n in ("k_compression", "v_compression"))
    close(y, merged(attend(q, e @ k, f @ v), p["output"]["kernel"]), 1e-5)


def test_linformer_of_full_rank_with_the_identity_is_exact_attention():
    mixer = nn.Linformer(rank=T, length=T)
    x, positions = inputs(2, T)
    params = init(mixer, x, positions=positions, segment_ids=None) | {"k_compression": jnp.eye(T), "v_compression": jnp.eye(T)}
    y, _ = mixer.apply({"params": params}, x, positions=positions, segment_ids=None)
    q, k, v = ((x @ w).reshape(2, T, HEADS, -1) for w in kernels(params, "q", "k", "v"))
    close(y, ops.attention(q, k, v, causal=False, implementation="reference").reshape(x.shape) @ params["output"]["kernel"], 1e-5)


def test_nystrom_with_a_landmark_a_token_is_exact_attention():
    q, k, v = (random((1, T, 2, 8), jnp.float32, i) for i in range(3))
    found = ops.documents(None, (1, T), 1)
    exact = ops.attention(q, k, v, causal=False)
    close(ops.nystrom(0.5 * q, k, v, found, landmarks=T, iterations=20), ops.attention(0.5 * q, k, v, causal=False), 1e-3)
    close(ops.nystrom(0.5 * q, k, v, found, landmarks=3 * T, iterations=20), ops.attention(0.5 * q, k, v, causal=False), 1e-3)
    assert np.abs(ops.nystrom(q, k, v, found, landmarks=3) - exact).max() > 1e-2


def test_nystrom_is_its_formula():
    mixer = nn.Nystromformer(landmarks=4, conv=3, iterations=30)
    x, p, y = built(mixer)
    q, k, v = (split(x, w) for w in kernels(p, "q", "k", "v"))
    q_mean, k_mean = (a.reshape(HEADS, 4, 3, -1).mean(2) for a in (q, k))
    scores = softmax(q_mean @ k_mean.swapaxes(1, 2) / np.sqrt(8))
    o = attend(q, k_mean, np.linalg.pinv(scores, rcond=1e-12) @ attend(q_mean, k, v))
    taps, padded = np.asarray(p["filter"]), np.pad(v, ((0, 0), (1, 1), (0, 0)))
    o = o + sum(padded[:, w : w + T] * taps[w][:, None, None] for w in range(3))
    close(y, merged(o, p["output"]["kernel"]), 2e-3)


def test_neighbours_skip_padding_and_stay_in_their_document():
    x, taps = random((1, 9, 2, 3), jnp.float32, 0), random((5, 2), jnp.float32, 1)
    segments = np.array([[0, 1, 1, 0, 0, 1, 2, 2, 0]], np.int32)
    y = np.asarray(ops.neighbours(x, taps, jnp.asarray(segments)))
    for document in (1, 2):
        tokens = np.flatnonzero(segments[0] == document)
        padded = np.pad(np.asarray(x)[0, tokens], ((2, 2), (0, 0), (0, 0)))
        close(y[0, tokens], sum(padded[w : w + len(tokens)] * np.asarray(taps)[w][:, None] for w in range(5)), 1e-6)
    assert not y[0, segments[0] == 0].any()


def test_inducing_points_are_two_attention_blocks():
    x, p, y = built(nn.InducedSetAttention(points=3, ffn=nn.MLP(hidden=16)))

    def norm(x, p):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * np.asarray(p["scale"]) + np.asarray(p["bias"])

    point = np.asarray(p["inducing"])
    heads = attend(split(point, p["point_q"]["kernel"]), *(split(x, w) for w in kernels(p, "point_k", "point_v")))
    h = norm(point + merged(heads, p["point_output"]["kernel"]), p["attention_norm"])
    h = norm(h + np.asarray(nn.gelu(h @ p["point_ffn"]["up"]["kernel"])) @ np.asarray(p["point_ffn"]["down"]["kernel"]), p["output_norm"])
    o = attend(split(x, p["q"]["kernel"]), *(split(h, w) for w in kernels(p, "k", "v")))
    close(y, merged(o, p["output"]["kernel"]), 1e-5)


@pytest.mark.parametrize("stride", [1, 5])
def test_pooled_queries_ask_once_for_each_stretch(stride):
    x, p, y = built(nn.PooledAttention(stride=stride))
    pooled = np.stack([x[i : i + stride].mean(0) for i in range(0, T, stride)])
    o = attend(split(pooled, p["q"]["kernel"]), *(split(x, w) for w in kernels(p, "k", "v")))
    close(y, np.repeat(merged(o, p["output"]["kernel"]), stride, axis=0)[:T], 1e-5)


MIXERS = [nn.Linformer(documents=2), nn.Nystromformer(landmarks=3, documents=2), nn.InducedSetAttention(documents=2), nn.PooledAttention(documents=2), nn.FNet(2)]


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda m: type(m).__name__)
def test_gaps_are_absent_and_documents_without_room_are_not_silent(mixer):
    x, _ = inputs(1, T)
    segments = jnp.array([[0, 5, 5, 0, 5, 5, 3, 3, 0, 4, 4, 0]])
    positions = jnp.array([[0, 0, 1, 9, 2, 3, 0, 1, 9, 0, 1, 9]])
    params = init(mixer, x, positions=positions, segment_ids=None)
    run = jax.jit(lambda x, p, s: mixer.apply({"params": params}, x, positions=p, segment_ids=s)[0])
    y = run(x, positions, segments)
    for document in (5, 3):
        tokens = np.flatnonzero(segments[0] == document)
        close(y[:, tokens], run(x[:, tokens], positions[:, tokens], None), 1e-5)
    assert np.isnan(y[0, 9:11]).all()


@pytest.mark.parametrize(
    "mixer,words",
    [
        (nn.Linformer(length=11), "Linformer: 12 tokens are more than length=11"),
        (nn.Linformer(rank=0), "rank=0"),
        (nn.Linformer(heads=5), "Linformer: width=32 is not a multiple of heads=5"),
        (nn.Nystromformer(conv=4), "conv=4 has no middle"),
        (nn.Nystromformer(landmarks=0), "landmarks=0"),
        (nn.InducedSetAttention(points=0), "points=0"),
        (nn.PooledAttention(stride=0), "stride=0"),
    ],
)
def test_what_cannot_be_is_named(mixer, words):
    x, positions = inputs(1, T)
    with pytest.raises(ValueError, match=words):
        mixer.init(jax.random.key(0), x, positions=positions, segment_ids=None)


def test_a_scale_for_the_whole_batch_refuses_packing():
    x, positions = inputs(1, T)
    with pytest.raises(ValueError, match="shared_scale=True mixes the documents"):
        nn.Nystromformer(shared_scale=True).init(jax.random.key(0), x, positions=positions, segment_ids=jnp.ones((1, T), jnp.int32))
