"""Attention within buckets and clusters, token by token as its definition says, and what of it may not depend on the future."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import nn, ops
from tests.tiny import close, init, inputs

T, HEADS, K = 24, 4, 8


def heads(x, kernel):
    return (np.asarray(x[0]) @ np.asarray(kernel)).reshape(T, HEADS, K)


def unit(x):
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def defined(q, k, v, groups, window, strict):
    """(o, logsumexp) of each token over the last tokens of its group, one after another, with scores q·k."""
    o, lse = np.zeros_like(v), np.full((T, HEADS), -1e30)
    for h in range(HEADS):
        for t in range(T):
            members = [s for s in range(t + 1 - strict) if groups[s, h] == groups[t, h]][-window:]
            if not members:
                o[t, h] = v[t, h]
                continue
            z = k[members, h] @ q[t, h]
            lse[t, h] = np.log(np.exp(z).sum())
            o[t, h] = np.exp(z - lse[t, h]) @ v[members, h]
    return o, lse


def run(mixer, params, x, positions):
    return jax.jit(lambda x: mixer.apply({"params": params}, x, positions=positions, segment_ids=None)[0])(x)


def test_reformer():
    mixer = nn.Reformer(buckets=4, window=3, rounds=2, position=None)
    x, positions = inputs(1, T)
    p = init(mixer, x, positions=positions, segment_ids=None)
    q, v = heads(x, p["qk"]["kernel"]), heads(x, p["v"]["kernel"])
    direction = np.asarray(jax.random.normal(jax.random.key(0), (HEADS, K, 2, 2)))
    parts = []
    for r in range(2):
        side = np.einsum("thk,hkf->thf", q, direction[:, :, r])
        parts.append(defined(q, unit(q), v, np.concatenate([side, -side], -1).argmax(-1), 3, strict=True))
    top = np.maximum(parts[0][1], parts[1][1])
    weights = [np.exp(lse - top)[..., None] for _, lse in parts]
    o = sum(w * o for w, (o, _) in zip(weights, parts)) / sum(weights)
    close(run(mixer, p, x, positions)[0], o.reshape(T, -1) @ np.asarray(p["output"]["kernel"]), 1e-5)


def test_routing():
    mixer = nn.RoutingAttention(clusters=3, window=4, position=None)
    x, positions = inputs(1, T)
    p = init(mixer, x, positions=positions, segment_ids=None)
    q, v = unit(heads(x, p["qk"]["kernel"])), heads(x, p["v"]["kernel"])
    near = np.einsum("thk,hck->thc", q, unit(np.asarray(p["centroids"])))
    o, _ = defined(q * np.sqrt(K), q, v, near.argmax(-1), 4, strict=False)
    close(run(mixer, p, x, positions)[0], o.reshape(T, -1) @ np.asarray(p["output"]["kernel"]), 1e-5)


def test_centroids_follow_their_tokens_whatever_the_loss_is():
    mixer = nn.RoutingAttention(clusters=3, window=4, rate=0.5)
    x, positions = inputs(1, T)
    p = init(mixer, x, positions=positions, segment_ids=None)

    def gradient(scale, segments):
        return jax.grad(lambda p: scale * mixer.apply({"params": p}, x, positions=positions, segment_ids=segments)[0].sum())(p)["centroids"]

    def distance(centroids, real):
        q = unit(heads(x, p["qk"]["kernel"]))[:real]
        far = jnp.sum((q[:, :, None] - jnp.asarray(centroids) / jnp.linalg.norm(centroids, axis=-1, keepdims=True)) ** 2, axis=-1)
        return 0.5 * far.min(-1).mean()

    close(gradient(1.0, None), jax.grad(distance)(p["centroids"], T), 1e-4)
    close(gradient(7.0, jnp.where(jnp.arange(T) < 10, 1, 0)[None]), jax.grad(distance)(p["centroids"], 10), 1e-4)


@pytest.mark.parametrize("mixer", [nn.Reformer(buckets=4, window=2), nn.RoutingAttention(clusters=3, window=2)], ids=lambda m: type(m).__name__)
def test_membership_does_not_read_the_future(mixer):
    """A changed token moves buckets and counts: the law's gradient would not see it."""
    x, positions = inputs(1, T)
    p = init(mixer, x, positions=positions, segment_ids=None)
    apply = jax.jit(lambda x: mixer.apply({"params": p}, x, positions=positions, segment_ids=None)[0])
    before = np.asarray(apply(x))
    for seed in range(4):
        t = 5 + 4 * seed
        other = x.at[:, t:].set(10 * jax.random.normal(jax.random.key(seed), x[:, t:].shape))
        np.testing.assert_array_equal(np.asarray(apply(other))[:, :t], before[:, :t])


def test_ranks_count_equal_tokens_before():
    ids = np.random.default_rng(0).integers(0, 4, (2, 30))
    np.testing.assert_array_equal(ops.ranks(jnp.asarray(ids)), [[(row[:t] == row[t]).sum() for t in range(30)] for row in ids])


@pytest.mark.parametrize("mixer,words", [(nn.Reformer(buckets=3), "buckets=3 must be even"), (nn.Reformer(window=0), "window=0"), (nn.RoutingAttention(clusters=0), "clusters=0")])
def test_what_cannot_be_is_named(mixer, words):
    x, positions = inputs(1, T)
    with pytest.raises(ValueError, match=words):
        mixer.init(jax.random.key(0), x, positions=positions, segment_ids=None)
