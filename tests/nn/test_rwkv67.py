"""RWKV-6 and RWKV-7 against their recurrences, written out step by step in float64."""

import numpy as np

from effllm import nn
from tests.nn.test_linear_mixers import DIM, HEADS, T, out, ran, sigmoid, silu
from tests.tiny import close


def by_head(y_tf):
    return y_tf.reshape(T, HEADS, DIM).swapaxes(0, 1)


def before(x):
    return np.concatenate([np.zeros((1, x.shape[1])), x[:-1]])


def layer_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 64e-5) * p["scale"] + p["bias"]


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


def test_rwkv7_time_and_channel_mix():
    x, y, p = ran(nn.RWKV7TimeMix(heads=HEADS, rank=3))
    b = {n: x + p[f"mix_{n}"] * (before(x) - x) for n in ("receptance", "key", "value", "decay", "rate", "gate")}
    r, k, v = (by_head(b[n] @ p[n]["kernel"]) for n in ("receptance", "key", "value"))

    def low_rank(name, between):
        return by_head(between(b[name] @ p[f"{name}_down"]["kernel"]) @ p[f"{name}_up"]["kernel"] + p[f"{name}_up"].get("bias", 0))

    w, a, g = np.exp(-np.exp(-0.5) * sigmoid(low_rank("decay", np.tanh))), sigmoid(low_rank("rate", lambda z: z)), low_rank("gate", sigmoid)
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
    close(y, out(o * g, p), 1e-4)

    x, y, p = ran(nn.RWKV7ChannelMix())
    close(y, np.maximum((x + p["mix"] * (before(x) - x)) @ p["key"]["kernel"], 0) ** 2 @ p["value"]["kernel"], 1e-5)
