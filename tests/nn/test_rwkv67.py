"""RWKV-6 and RWKV-7 against their recurrences, written out step by step in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from effllm import nn
from effllm.config.tree import check
from effllm.shard import MeshShape, shardings
from tests.nn.test_linear_mixers import DIM, HEADS, T, out, ran, sigmoid, silu
from tests.tiny import close, init, inputs, model


def by_head(y_tf):
    return y_tf.reshape(T, HEADS, DIM).swapaxes(0, 1)


def before(x):
    return np.concatenate([np.zeros((1, x.shape[1])), x[:-1]])


def layer_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    scale, bias = (p[name].reshape(HEADS, 1, DIM) for name in ("scale", "bias"))
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 64e-5) * scale + bias


def test_rwkv6():
    x, y, p = ran(nn.RWKV6TimeMix(heads=HEADS, blend_rank=4, rank=3))
    change = before(x) - x
    low = np.split(np.tanh((x + p["mix_first"] * change) @ p["blend_down"]["kernel"]), 5, axis=1)
    names = "decay", "key", "value", "receptance", "gate"
    b = {n: x + (p[f"mix_{n}"] + part @ p[f"blend_{n}"]["kernel"]) * change for n, part in zip(names, low)}
    k, v, r, g = (by_head(b[n] @ p[n]["kernel"]) for n in names[1:])
    w = np.exp(-np.exp(p["decay"][:, None] + by_head(np.tanh(b["decay"] @ p["decay_down"]["kernel"]) @ p["decay_up"]["kernel"])))
    o = np.zeros(v.shape)
    for h in range(HEADS):
        s = np.zeros((DIM, DIM))
        for t in range(T):
            new = np.outer(k[h, t], v[h, t])
            o[h, t] = r[h, t] @ (s + p["bonus"][h][:, None] * new)
            s = w[h, t][:, None] * s + new
    close(y, out(layer_norm(o, p["head_norm"]) * silu(g), p), 1e-4)


def rwkv7(x, p, first=None):
    """(output, values) of a layer whose values are blended with `first` where given, by head."""
    b = {n: x + p[f"mix_{n}"] * (before(x) - x) for n in ("receptance", "key", "value", "decay", "rate", "gate")}
    r, k, v = (by_head(b[n] @ p[n]["kernel"]) for n in ("receptance", "key", "value"))

    def low_rank(name, between, of=None):
        return by_head(between(b[of or name] @ p[f"{name}_down"]["kernel"]) @ p[f"{name}_up"]["kernel"])

    def moved(name, between=lambda z: z, of=None):
        return sigmoid(p[name][:, None] + low_rank(name, between, of))

    own = v
    if first is not None:
        v = v + (first - v) * moved("residual", of="value")
    w, a, g = np.exp(-np.exp(-0.5) * moved("decay", np.tanh)), moved("rate"), low_rank("gate", sigmoid)
    kappa = k * p["removal_scale"][:, None]
    kappa /= np.linalg.norm(kappa, axis=-1, keepdims=True)
    k = k * (1 + (a - 1) * p["rate_scale"][:, None])
    o = np.zeros(v.shape)
    for h in range(HEADS):
        s = np.zeros((DIM, DIM))  # values by keys, as in the paper
        for t in range(T):
            s = s @ (np.diag(w[h, t]) - np.outer(kappa[h, t], a[h, t] * kappa[h, t])) + np.outer(v[h, t], k[h, t])
            o[h, t] = s @ r[h, t]
    o = layer_norm(o, p["head_norm"]) + (p["bonus"][:, None] * r * k).sum(-1, keepdims=True) * v
    return out(o * g, p), own


def rwkv7_channels(x, p):
    return np.maximum((x + p["mix"] * (before(x) - x)) @ p["key"]["kernel"], 0) ** 2 @ p["value"]["kernel"]


def test_rwkv7_time_and_channel_mix():
    x, y, p = ran(nn.RWKV7TimeMix(heads=HEADS, rank=3))
    close(y, rwkv7(x, p)[0], 1e-4)
    x, y, p = ran(nn.RWKV7ChannelMix())
    close(y, rwkv7_channels(x, p), 1e-5)


def test_decays_start_over_the_channels_of_all_heads():
    """From memories of hundreds of tokens to those of a few, and no head like another; low ranks move them little at first."""
    x_btd, positions = inputs(1, 4)
    for mixer, rate in ((nn.RWKV6TimeMix(), lambda w0: np.exp(w0)), (nn.RWKV7TimeMix(), lambda w0: np.exp(-0.5) * sigmoid(w0))):
        p = meta.unbox(jax.jit(lambda: mixer.init(jax.random.key(0), x_btd, positions=positions, segment_ids=None))())["params"]
        half_life = np.log(2) / rate(np.asarray(p["decay"], np.float64).reshape(-1))
        assert half_life[0] > 250 and half_life[-1] < 7 and (np.diff(half_life) < 0).all()
        low = np.abs(np.tanh(np.asarray(x_btd[0]) @ p["decay_down"]["kernel"]) @ p["decay_up"]["kernel"])
        assert 0 < low.max() < 0.5
        assert p["head_norm"]["scale"].shape == p["head_norm"]["bias"].shape == (p["decay"].size,)


MODEL = model(
    blocks=(nn.ValueResidualBlock(nn.RWKV7TimeMix(heads=HEADS, rank=3), None), nn.Block(nn.RWKV7ChannelMix(), None)), depth=6, width=HEADS * DIM
)  # fmt: skip


@functools.cache
def whole():
    """(tokens, parameters, features) of a model of three RWKV-7 layers."""
    tokens_bt = jax.random.randint(jax.random.key(0), (1, T), 0, MODEL.vocab_size)
    params = init(MODEL, tokens_bt)
    return tokens_bt, params, MODEL.apply({"params": params}, tokens_bt, method="features")[0]


def test_values_are_blended_with_those_of_the_first_layer():
    tokens_bt, params, y_btd = whole()
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

    def norm(x, p):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"]

    x, first = p["embed"]["embedding"][tokens_bt[0]], None
    for n in range(3):
        time, channels = (jax.tree.map(lambda a: a[n], p["layers"][f"blocks_{i}"]) for i in range(2))
        y, values = rwkv7(norm(x, time["mixer_norm"]), time["mixer"], first)
        first, x = values if first is None else first, x + y
        x = x + rwkv7_channels(norm(x, channels["mixer_norm"]), channels["mixer"])
    close(y_btd[0], norm(x, p["final_norm"]), 1e-4)


def test_the_first_layers_blend_moves_nothing_and_later_ones_do():
    tokens_bt, params, _ = whole()
    grads = jax.grad(lambda p: jnp.sum(MODEL.apply({"params": p}, tokens_bt)[0] ** 2))(params)["layers"]["blocks_0"]["mixer"]
    for part in ("residual_down", "residual_up"):
        moved = jnp.abs(grads[part]["kernel"]).max((1, 2))
        assert moved[0] == 0 and moved[1:].min() > 0


def test_values_pass_between_layers_in_decoding_and_stay_within_a_document():
    tokens_bt, params, y_btd = whole()
    state = MODEL.init_state(1, T)
    step = jax.jit(lambda state, token_b1: MODEL.apply({"params": params}, token_b1, state=state, method="features"))
    for t in range(T):
        now_b1d, state = step(state, tokens_bt[:, t : t + 1])
        close(now_b1d[:, 0], y_btd[:, t], 1e-4)
    twice_bt, segments_bt = jnp.tile(tokens_bt, (1, 2)), jnp.repeat(jnp.arange(1, 3), T)[None]
    packed_btd, _ = MODEL.apply({"params": params}, twice_bt, segment_ids=segments_bt, method="features")
    close(packed_btd, jnp.tile(y_btd, (1, 2, 1)), 1e-4)


def test_a_model_with_links_on_a_mesh_and_recomputed():
    tokens_bt = jnp.tile(whole()[0][:, :8], (8, 1))

    def step(decoder):
        return jax.jit(jax.value_and_grad(lambda p: jnp.mean(decoder.apply({"params": p}, tokens_bt)[0] ** 2)))

    loss, grads = step(MODEL)(whole()[1])
    mesh = MeshShape(2, 2, 2).build(jax.devices())
    boxed = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), tokens_bt)["params"])
    placed = jax.device_put(whole()[1], shardings(boxed, mesh))
    with jax.set_mesh(mesh):
        spread, spread_grads = step(MODEL.clone(remat="full"))(placed)
    close(spread, loss, 1e-5)
    jax.tree.map(lambda a, b: close(a, b, 1e-4), spread_grads, grads)


def test_a_mixer_without_values_to_blend_is_refused():
    with pytest.raises(ValueError, match="mixer.*ValueMixer"):
        check(nn.ValueResidualBlock(nn.Attention(heads=2)))
