"""Linear and delta-rule mixers against the formulas of their papers, written out over all pairs or all steps in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import nn
from effllm.nn.linear_attention import elu_plus_one
from effllm.nn.performer import OrthogonalGaussian
from tests.tiny import close, init, inputs, model

T, WIDTH, HEADS = 9, 32, 2
DIM = WIDTH // HEADS


def ran(mixer):
    """(x, y, parameters as float64 NumPy arrays)."""
    x_btd, positions = inputs(1, T)
    params = init(mixer, x_btd, positions=positions, segment_ids=None)
    y_btd, _ = mixer.apply({"params": params}, x_btd, positions=positions, segment_ids=None)
    return np.asarray(x_btd[0], np.float64), np.asarray(y_btd[0], np.float64), jax.tree.map(lambda a: np.asarray(a, np.float64), params)


def heads(x_td, params, name, count=HEADS):
    """(H, T, K) of one projection, before any convolution."""
    y_tf = x_td @ params[name]["kernel"] + params[name].get("bias", 0)
    return y_tf.reshape(T, count, -1).swapaxes(0, 1)


def convolved(y_htk, filter_wd):
    """silu of the short convolution of a projection."""
    h, _, k = y_htk.shape
    flat = np.concatenate([np.zeros((len(filter_wd) - 1, h * k)), y_htk.swapaxes(0, 1).reshape(T, -1)])
    out = sum(f * flat[w : w + T] for w, f in enumerate(filter_wd))
    return (out / (1 + np.exp(-out))).reshape(T, h, k).swapaxes(0, 1)


def out(o_htv, params):
    return o_htv.swapaxes(0, 1).reshape(T, -1) @ params["output"]["kernel"]


def rms(x, params, eps=1e-6):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * params["scale"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-6)


BACK = np.arange(T)[:, None] - np.arange(T)  # t − s
PAST = BACK >= 0


def normalised(weights_hts, v_htv):
    weights_hts = np.where(PAST, weights_hts, 0)
    return weights_hts / weights_hts.sum(-1, keepdims=True) @ v_htv


def test_linear_attention_with_a_short_convolution():
    x, y, p = ran(nn.LinearAttention(heads=HEADS, conv=nn.ShortConv()))
    q, k, v = (convolved(heads(x, p, n), p[f"{n}_conv"]["filter"]) for n in "qkv")
    q, k = (np.where(a > 0, a + 1, np.exp(a)) for a in (q, k))
    close(y, out(normalised(q @ k.swapaxes(1, 2), v), p), 1e-5)


def performer_features(a, p):
    a = a / DIM**0.25
    return np.exp(a @ p["random_features"].T - (a**2).sum(-1, keepdims=True) / 2)


def test_performer_approaches_softmax_attention_as_features_grow():
    mixer = nn.Performer(heads=HEADS, features=2048)
    x_btd, positions = inputs(1, T)
    p = init(mixer, x_btd, positions=positions, segment_ids=None)
    x = 0.5 * np.asarray(x_btd[0], np.float64)
    q, k, v = (heads(x, p, n) for n in "qkv")
    exact = out(normalised(np.exp(q @ k.swapaxes(1, 2) / DIM**0.5), v), p)

    def error(features):
        fewer = {**p, "random_features": p["random_features"][:features]}
        y, _ = mixer.clone(features=features).apply({"params": fewer}, 0.5 * x_btd, positions=positions, segment_ids=None)
        return np.sqrt(((y[0] - exact) ** 2).mean() / (exact**2).mean())

    assert error(2048) < 0.05 and error(2048) < error(16) / 4


@pytest.mark.parametrize("size", [1.0, 7.0])  # at 7 many a weight, formed without its scale, would be 0 in float32
def test_performer_is_its_features_exactly(size):
    mixer = nn.Performer(heads=HEADS, features=24)
    x_btd, positions = inputs(1, T)
    params = init(mixer, x_btd, positions=positions, segment_ids=None)
    y, _ = mixer.apply({"params": params}, size * x_btd, positions=positions, segment_ids=None)
    p, x = jax.tree.map(lambda a: np.asarray(a, np.float64), params), size * np.asarray(x_btd[0], np.float64)
    q, k, v = (heads(x, p, n) for n in "qkv")
    close(y[0], out(normalised(performer_features(q, p) @ performer_features(k, p).swapaxes(1, 2), v), p), 1e-4)
    weights = np.einsum("htm,htm->ht", performer_features(q, p), performer_features(k, p)).astype(np.float32)
    assert size < 2 or not weights.all()


def test_random_features_are_orthogonal_and_drawn_anew_on_request_only():
    w = OrthogonalGaussian()(jax.random.key(0), (40, 16))
    gram = np.asarray(w[:16] @ w[:16].T)
    np.testing.assert_allclose(gram - np.diag(np.diag(gram)), 0, atol=1e-4)
    assert 0.7 < np.diag(gram).mean() / 16 < 1.3 and np.diag(gram).std() > 1
    decoder = model(blocks=(nn.Block(nn.Performer(heads=HEADS, features=8), None),), depth=2)
    params = init(decoder, jnp.ones((1, 4), jnp.int32))
    gradient = jax.jit(jax.grad(lambda p: decoder.apply({"params": p}, jnp.arange(4)[None])[0].sum()))(params)["layers"]["blocks_0"]["mixer"]
    assert not gradient["random_features"].any() and gradient["q"]["kernel"].any()
    again = nn.Performer.redraw(params, jax.random.key(7))
    changed = {jax.tree_util.keystr(path) for path, same in jax.tree_util.tree_leaves_with_path(jax.tree.map(lambda a, b: bool((a == b).all()), params, again)) if not same}
    assert changed == {"['layers']['blocks_0']['mixer']['random_features']"}
    new = again["layers"]["blocks_0"]["mixer"]["random_features"]
    assert new.shape[0] == 2 and not np.allclose(new[0], new[1])


@pytest.mark.parametrize("gate", [False, True])
def test_random_feature_attention(gate):
    x, y, p = ran(nn.RandomFeatureAttention(heads=HEADS, gate=gate))
    q, k, v = (heads(x, p, n) for n in "qkv")
    w = p["random_features"]

    def features(a):
        angle = np.exp(p["log_scale"])[:, None] * unit(a) @ w.T
        return np.concatenate([np.sin(angle), np.cos(angle)], -1) / np.sqrt(len(w))

    g = sigmoid(heads(x, p, "gate"))[..., 0] if gate else None
    o = np.zeros((HEADS, T, DIM))
    for h in range(HEADS):
        s, z = np.zeros((2 * len(w), DIM)), np.zeros(2 * len(w))
        for t in range(T):
            keep, add = (g[h, t], 1 - g[h, t]) if gate else (1.0, 1.0)
            s, z = keep * s + add * np.outer(features(k)[h, t], v[h, t]), keep * z + add * features(k)[h, t]
            o[h, t] = features(q)[h, t] @ s / max(features(q)[h, t] @ z, 0.02)
    close(y, out(o, p), 1e-4)


def test_cosformer_weighs_by_the_cosine_of_the_distance():
    x, y, p = ran(nn.CosFormer(heads=HEADS, longest=20))
    q, k, v = (heads(x, p, n) for n in "qkv")
    scores = np.maximum(q, 0) @ np.maximum(k, 0).swapaxes(1, 2) * np.cos(np.pi * BACK / 40)
    close(y, out(normalised(scores, v), p), 1e-4)


def test_cosformer_refuses_a_text_beyond_its_cosine():
    mixer = nn.CosFormer(longest=8)
    with pytest.raises(ValueError, match="9 tokens are more than longest=8.*raise it"):
        mixer.init_state(1, 9, WIDTH, jnp.float32)
    with pytest.raises(ValueError, match="9 tokens are more than longest=8"):
        ran(mixer)


def test_retention_in_its_parallel_form():
    x, y, p = ran(nn.Retention(heads=HEADS))
    q, k, v, g = (heads(x, p, n) for n in ("q", "k", "v", "gate"))
    frequencies = 10000.0 ** (-np.arange(DIM // 2) / (DIM // 2))
    turn = np.exp(1j * np.arange(T)[:, None] * frequencies)
    q, k = ((a[..., : DIM // 2] + 1j * a[..., DIM // 2 :]) * turn for a in (q, k))
    gamma = 1 - 2.0 ** (-5 - np.arange(HEADS))
    decay = np.where(PAST, gamma[:, None, None] ** np.maximum(BACK, 0), 0)
    o = ((q @ k.conj().swapaxes(1, 2)).real / np.sqrt(DIM) * decay) @ v
    close(y, out(rms(o, p["head_norm"]) * silu(g), p), 1e-4)


def test_gated_linear_attention_step_by_step():
    x, y, p = ran(nn.GatedLinearAttention(heads=HEADS))
    q, k, v, g = (heads(x, p, n) for n in ("q", "k", "v", "gate"))
    alpha = sigmoid(x @ p["decay_down"]["kernel"] @ p["decay_up"]["kernel"] + p["decay_up"]["bias"]) ** (1 / 16)
    alpha = alpha.reshape(T, HEADS, -1).swapaxes(0, 1)
    o = np.zeros(v.shape)
    for h in range(HEADS):
        s = np.zeros((DIM // 2, DIM))
        for t in range(T):
            s = alpha[h, t][:, None] * s + np.outer(k[h, t], v[h, t])
            o[h, t] = s.T @ q[h, t] / np.sqrt(DIM // 2)
    close(y, out(rms(o, p["head_norm"]) * silu(g), p), 1e-4)


@pytest.mark.parametrize("negative", [False, True])
def test_delta_net_writes_what_is_missing(negative):
    x, y, p = ran(nn.DeltaNet(heads=HEADS, negative=negative))
    q, k, v = (convolved(heads(x, p, n), p[f"{n}_conv"]["filter"]) for n in "qkv")
    q, k, beta = unit(q), unit(k), (2 if negative else 1) * sigmoid(heads(x, p, "beta"))[..., 0]
    o = np.zeros(v.shape)
    for h in range(HEADS):
        s = np.zeros((DIM, DIM))
        for t in range(T):
            s = (np.eye(DIM) - beta[h, t] * np.outer(k[h, t], k[h, t])) @ s + beta[h, t] * np.outer(k[h, t], v[h, t])
            o[h, t] = s.T @ q[h, t] / np.sqrt(DIM)
    close(y, out(rms(o, p["head_norm"]), p), 1e-4)


@pytest.mark.parametrize("mixer, message", [
    (nn.LinearAttention(heads=3), "LinearAttention: width=32 is not a multiple of heads=3; change heads or give head_dim"),
    (nn.DeltaNet(heads=0), "DeltaNet: heads=0 must be at least 1"),
    (nn.GatedDeltaNet(key_heads=3), "heads=4 is not a multiple of key_heads=3"),
    (nn.GatedLinearAttention(temperature=0.0), "temperature=0.0 must be above 0"),
    (nn.GatedLinearAttention(head_dim=7), "head_dim=7 must be even"),
    (nn.Retention(chunk=48), "chunk=48 must be a power of two"),
    (nn.Retention(position=nn.ALiBi()), "Retention: position=ALiBi adds a bias"),
])  # fmt: skip
def test_errors(mixer, message):
    with pytest.raises(ValueError, match=message):
        ran(mixer)


def test_small_features_of_linear_attention_are_not_rounded_away():
    x = jnp.array([-20.0, -8.0, -1.0, 0.0, 2.0], jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(np.asarray(elu_plus_one(x), np.float64), np.where(wide > 0, wide + 1, np.exp(wide)), rtol=2**-8)
    slopes = jax.vmap(jax.grad(elu_plus_one))(x.astype(jnp.float32))
    np.testing.assert_allclose(slopes[jnp.array([0, 1, 2, 4])], [*np.exp(wide[:3]), 1], rtol=1e-5)


def test_a_state_of_another_model_is_named():
    x_btd, positions = inputs(1, T)
    mixer = nn.LinearAttention()
    params = init(mixer, x_btd, positions=positions, segment_ids=None)
    with pytest.raises(ValueError, match="linear_attention: the state has shape .*another model's state"):
        mixer.apply({"params": params}, x_btd, positions=positions, segment_ids=None, state=mixer.clone(heads=2).init_state(1, T, WIDTH, jnp.float32))
