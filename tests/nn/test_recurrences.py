"""Recurrences, state spaces and long convolutions beside their papers' formulas, step by step in NumPy (RG-LRU, Mamba and RWKV-4: tests/interop has transformers' outputs)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from effllm import nn, ops
from effllm.nn.block_state import BlockBefore
from effllm.nn.hyena import ImplicitFilter
from effllm.nn.rglru import bounded_root
from effllm.nn.spectrum import hippo, hippo_dplr
from effllm.ops.pattern import BlockLocal
from tests.tiny import WIDTH, close, init, inputs

T = 21


def run(mixer, length=T, **kwargs):
    """(output of row 0, input of row 0, parameters as float64)."""
    x_btd, positions = inputs(1, length)
    params = init(mixer, x_btd, positions=positions, segment_ids=None)
    y_btd, _ = jax.jit(lambda p: mixer.apply({"params": p}, x_btd, positions=positions, segment_ids=None, **kwargs))(params)
    return np.asarray(y_btd[0], np.float64), np.asarray(x_btd[0], np.float64), jax.tree.map(lambda a: np.asarray(a, np.float64), params)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return np.asarray(nn.gelu(jnp.asarray(x)), np.float64)


def complex_of(p, name):
    return p[f"{name}_real"] + 1j * p[f"{name}_imag"]


def ssm(x_td, a_d, b_dn, c_dn):
    """y_t = Re(c·h_t), h_t = A h_{t−1} + b x_t for each channel, A a matrix or a diagonal."""
    h, out = np.zeros(b_dn.shape, complex), []
    for x_d in x_td:
        h = (a_d * h if a_d.ndim == 2 else np.einsum("dnm,dm->dn", a_d, h)) + b_dn * x_d[:, None]
        out.append((c_dn * h).sum(-1).real)
    return np.array(out)


def diagonal(x_td, p, **kwargs):
    """DiagonalSSM by zero-order hold."""
    lam, dt = -np.exp(p["log_real"]) + 1j * p["imag"], np.exp(p["log_step"])[:, None]
    a = np.exp(lam * dt)
    b = (a - 1) / lam
    if "normal_length" in kwargs:  # w/λ · exp(Δλj) / Σ_i exp(Δλi)
        b = 1 / lam / sum(np.exp(lam * dt * i) for i in range(kwargs["normal_length"]))
    return ssm(x_td, a, b, 2 * complex_of(p, "c")) + p["skip"] * x_td


def test_hippo_is_normal_plus_low_rank():
    a, b = hippo(8)
    assert a[3, 1] == -np.sqrt(7 * 3) and a[2, 2] == -3 and a[1, 3] == 0 and b[2] == np.sqrt(5)
    lam, p, vb = hippo_dplr(8)
    # The same state space in another basis: Markov parameters BᵀAʲB are equal.
    dplr = np.diag(lam) - np.outer(p, p.conj())
    for j in range(4):
        np.testing.assert_allclose(vb.conj() @ np.linalg.matrix_power(dplr, j) @ vb, b @ np.linalg.matrix_power(a, j) @ b, rtol=1e-8)
    assert (nn.HiPPO()(4).imag > 0).all() and set(np.round(nn.HiPPO()(4), 6)) <= set(np.round(lam, 6))


def test_s4():
    y, x, p = run(nn.S4(states=6))
    lam, b, pp = -np.exp(p["log_real"]) + 1j * p["imag"], complex_of(p, "b"), complex_of(p, "p")
    dt, eye = np.exp(p["log_step"])[:, None, None], np.eye(6)
    a = lam[:, :, None] * eye - pp[:, :, None] * pp[:, None].conj()
    inverse = np.linalg.inv(eye - dt / 2 * a)
    out = ssm(x, inverse @ (eye + dt / 2 * a), np.einsum("dnm,dm->dn", inverse, dt[:, 0] * b), complex_of(p, "c")) + p["skip"] * x
    close(y, gelu(out) @ p["output"]["kernel"], 1e-5)


@pytest.mark.parametrize("mixer,kwargs", [(nn.S4D(states=5), {}), (nn.DSS(states=5, normal_length=40), {"normal_length": 40})], ids=["S4D", "DSS-softmax"])
def test_s4d_and_dss(mixer, kwargs):
    y, x, p = run(mixer)
    close(y, gelu(diagonal(x, p["ssm"], **kwargs)) @ p["output"]["kernel"], 1e-5)


def test_gss():
    y, x, p = run(nn.GSS(inner=6, hidden=24, states=3))
    u, v = gelu(x @ p["input"]["kernel"]), gelu(x @ p["gate"]["kernel"])
    close(y, ((diagonal(u, p["ssm"]) @ p["read"]["kernel"]) * v) @ p["output"]["kernel"], 1e-5)


def test_h3():
    y, x, p = run(nn.H3(states=3, taps=3))
    q, k, v = (x @ p[n]["kernel"] for n in "qkv")
    k = np.concatenate([np.zeros((2, WIDTH)), k])
    k = sum(k[i : i + T] * p["shift"]["filter"][i] for i in range(3))
    close(y, (q * diagonal(k * v, p["ssm"])) @ p["output"]["kernel"], 1e-5)


def test_bigs():
    y, x, p = run(nn.BiGS(states=3))
    forward = diagonal(gelu(x @ p["forward"]["kernel"]), p["forward_ssm"]) @ p["read_forward"]["kernel"]
    back = diagonal(gelu(x @ p["backward"]["kernel"])[::-1], p["backward_ssm"])[::-1] @ p["read_backward"]["kernel"]
    close(y, (gelu((forward * back) @ p["join"]["kernel"]) * gelu(x @ p["gate"]["kernel"])) @ p["output"]["kernel"], 1e-5)


def test_lru():
    y, x, p = run(nn.LRU(states=7))
    lam, u, h, out = np.exp(-np.exp(p["radius"]) + 1j * np.exp(p["phase"])), x @ p["input"]["kernel"], 0, []
    for t in range(T):
        h = lam * h + np.exp(p["log_gamma"]) * (u[t, :7] + 1j * u[t, 7:])
        out.append(np.concatenate([h.real, h.imag]) @ p["output"]["kernel"] + p["skip"] * x[t])
    close(y, np.array(out), 1e-5)


def test_states_of_the_lru_keep_the_variance_of_their_inputs():
    """However slowly they fade: ∑ γ² |λ|^2t is 1 for every λ, and h and y of white noise vary as it does."""
    x_btd, positions = inputs(4, 2048)
    mixer = nn.LRU(states=64, decay=(0.5, 0.99))
    params = meta.unbox(jax.jit(lambda: mixer.init(jax.random.key(0), x_btd[:, :4], positions=positions[:, :4], segment_ids=None))())["params"]
    np.testing.assert_allclose(np.exp(2 * params["log_gamma"]), 1 - np.exp(-2 * np.exp(params["radius"])), rtol=1e-4)
    y_btd, state = jax.jit(lambda: mixer.apply({"params": params}, x_btd, positions=positions, segment_ids=None, state=mixer.init_state(4, 1, WIDTH, jnp.float32)))()
    skip = params["skip"] * x_btd
    assert 0.7 < np.var(y_btd[:, 512:] - skip[:, 512:]) < 1.4
    assert 1.4 < np.mean(np.abs(state.memory) ** 2) < 2.8


def test_s5():
    y, x, p = run(nn.S5(states=7))
    lam, u, h, out = -np.exp(p["log_real"]) + 1j * p["imag"], x @ p["input"]["kernel"], 0, []
    a = np.exp(lam * np.exp(p["log_step"]))
    for t in range(T):
        h = a * h + (a - 1) / lam * (u[t, :7] + 1j * u[t, 7:])
        out.append(2 * np.concatenate([h.real, h.imag]) @ p["read"]["kernel"] + p["skip"] * x[t])
    z = gelu(np.array(out))
    close(y, z * sigmoid(z @ p["output"]["kernel"]), 1e-5)


def test_hyena():
    mixer = nn.Hyena(order=3, length=10, taps=2)
    y, x, p = run(mixer)
    u = np.concatenate([np.zeros((1, 4 * WIDTH)), x @ p["input"]["kernel"]])
    x0, x1, x2, z = np.split(u[:-1] * p["conv"]["filter"][0] + u[1:] * p["conv"]["filter"][1], 4, axis=1)
    for n, gate in enumerate((x2, x1)):
        h = np.asarray(ImplicitFilter(WIDTH, 10, 64, 16, 1.0).apply({"params": p[f"filter_{n}"]}, T), np.float64)
        z = gate * z
        z = np.stack([np.convolve(h[:, d], z[:, d])[:T] for d in range(WIDTH)], 1) + p[f"bias_{n}"] * z
    close(y, (x0 * z) @ p["output"]["kernel"], 1e-5)


@pytest.mark.parametrize(
    "mixer,weight",
    [
        (nn.AFTSimple(), lambda p, t, s: 0),
        (nn.AFTFull(length=T), lambda p, t, s: p["query_places"][t] @ p["key_places"][s] / 4),
        (nn.AFTLocal(window=4), lambda p, t, s: p["query_places"][t] @ p["key_places"][s] / 4 if t - s < 4 else 0),
        (nn.AFTConv(window=4), lambda p, t, s: np.repeat(p["lags"][t - s], WIDTH // 4) if t - s < 4 else 0),
    ],
    ids=["simple", "full", "local", "conv"],
)
def test_aft(mixer, weight):
    y, x, p = run(mixer)
    q, k, v = (x @ p[n]["kernel"] for n in "qkv")
    out = []
    for t in range(T):
        e = np.stack([np.exp(k[s] + weight(p, t, s)) for s in range(t + 1)])
        out.append(sigmoid(q[t]) * (e * v[: t + 1]).sum(0) / e.sum(0))
    close(y, np.array(out) @ p["output"]["kernel"], 1e-5)


def attended(q, k, v, sees):
    """Softmax attention of one head by a mask (T, S); rows that see nothing give 0."""
    scores = np.where(sees, q @ k.T * q.shape[1] ** -0.5, -np.inf)
    e = np.exp(scores - np.where(sees.any(1), scores.max(1), 0)[:, None])
    return e @ v / np.maximum(e.sum(1), 1e-30)[:, None]


def silu(x):
    return x * sigmoid(x)


def test_mega():
    """What a block adds to x to make the paper's layer."""
    y, x, p = run(nn.Mega(states=3, key_dim=6, hidden=10, chunk=5, position=nn.Position()))
    alpha, delta, h, m = sigmoid(p["alpha"]), sigmoid(p["delta"]), 0, []
    for t in range(T):
        h = alpha * p["beta"] * x[t][:, None] + (1 - alpha * delta) * h
        m.append((p["eta"] * h).sum(-1) / np.sqrt(3))
    m = silu(np.array(m) + p["omega"] * x)
    out = {n: (x if n == "v" else m) @ p[n]["kernel"] + p[n]["bias"] for n in ("shared", "v", "reset", "update", "candidate")}
    q, k = (silu(out["shared"]) * p[f"{n}_scale"] + p[f"{n}_shift"] for n in "qk")
    i, j = np.ogrid[:T, :T]
    o = attended(q, k, silu(out["v"]), (i >= j) & (i // 5 == j // 5))
    phi = sigmoid(out["update"])
    close(x + y, phi * silu(out["candidate"] + (silu(out["reset"]) * o) @ p["output"]["kernel"]) + (1 - phi) * x, 1e-5)


def test_block_state():
    y, x, p = run(nn.BlockState(heads=1, block=5, states=3, position=nn.Position()))
    context = diagonal(x, p["ssm"])
    context = context / np.sqrt((context**2).mean(-1, keepdims=True) + 1e-6) * p["context_norm"]["scale"]
    i, j = np.ogrid[:T, :T]
    own = attended(x @ p["q"]["kernel"], x @ p["k"]["kernel"], x @ p["v"]["kernel"], (i >= j) & (i // 5 == j // 5))
    across = attended(x @ p["context_q"]["kernel"], context @ p["context_k"]["kernel"], context @ p["context_v"]["kernel"], i // 5 == j // 5 + 1)
    close(y, np.stack([own, across], -1).reshape(T, -1) @ p["output"]["kernel"], 1e-5)


def test_block_recurrent():
    """Token by token from the paper's equations, two documents and padding."""
    heads, w, s = 2, 3, 4
    for gate in (nn.FixedGate(), nn.LSTMGate()):
        mixer = nn.BlockRecurrent(heads=heads, block=w, states=s, gate=gate, position=nn.Position())
        x_btd, _ = inputs(1, T)
        segments = np.array([[1] * 2 + [0] + [1] * 9 + [0] + [2] * 8], np.int32)
        positions = jnp.zeros((1, T), jnp.int32)
        params = init(mixer, x_btd, positions=positions, segment_ids=segments)
        y_btd, _ = jax.jit(lambda p: mixer.apply({"params": p}, x_btd, positions=positions, segment_ids=segments))(params)
        p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

        def attend(q, k, v):
            q, k, v = (a.reshape(len(a), heads, -1) for a in (q, k, v))
            return np.stack([attended(q[:, h], k[:, h], v[:, h], np.ones((len(q), len(k)), bool)) for h in range(heads)], 1)

        def joined(*o):
            return np.stack(o, -1).reshape(len(o[0]), -1)

        def affine(h, name):
            return h @ p["gate"][name]["kernel"] + p["gate"][f"{name}_bias"]

        def change(c, h):
            if isinstance(gate, nn.FixedGate):
                g = sigmoid(p["gate"]["gate"])
                return c * g + affine(h, "candidate") * (1 - g)
            return c * sigmoid(affine(h, "forget") + 1) + np.tanh(affine(h, "candidate")) * sigmoid(affine(h, "input") - 1)

        for document in (1, 2):
            x, c = np.asarray(x_btd[0], np.float64)[segments[0] == document], p["initial_states"]
            q, k, v, across = (x @ p[n]["kernel"] for n in ("q", "k", "v", "across_q"))
            out = []
            for t in range(len(x)):
                u = c / np.sqrt((c**2).mean(-1, keepdims=True) + 1e-6) * p["state_scale"] + p["state_ids"]
                ks, vs = u @ p["state_k"]["kernel"], u @ p["state_v"]["kernel"]
                seen = slice(max(0, t - w + 1), t + 1)
                out.append(joined(attend(q[t : t + 1], k[seen], v[seen]), attend(across[t : t + 1], ks, vs))[0] @ p["output"]["kernel"])
                if (t + 1) % w == 0:
                    own, of_block = attend(u @ p["state_q"]["kernel"], ks, vs), attend(u @ p["state_across_q"]["kernel"], k[seen], v[seen])
                    c = change(c, joined(own, of_block))
            close(np.asarray(y_btd[0])[segments[0] == document], np.array(out), 1e-5)


@pytest.mark.parametrize("horizon,first", [(1, 6), (None, 0)])
def test_gradients_of_block_recurrent_reach_back_to_the_horizon(horizon, first):
    """Token 11 sees the states after block 2 (tokens 6 to 8), made from those after block 1, which a horizon of 1 takes as given."""
    mixer = nn.BlockRecurrent(block=3, states=2, horizon=horizon, implementation="reference")
    x_btd, positions = inputs(1, 12)
    params = init(mixer, x_btd, positions=positions, segment_ids=None)
    g_td = jax.jit(jax.grad(lambda x: mixer.apply({"params": params}, x, positions=positions, segment_ids=None)[0][0, -1].sum()))(x_btd)[0]
    assert not g_td[:first].any() and (jnp.abs(g_td[first:]).sum(-1) > 0).all()


@pytest.mark.parametrize("bias", [-10.0, 3.0], ids=["closed", "open"])
def test_mlstm(bias):
    """Without maxima, in float64; open gates make sums of weights above 1, so that they divide."""
    mixer = nn.MLSTM(heads=2, key_dim=5, gate_cap=4.0, eps=0.0, chunk=4)
    x_btd, positions = inputs(1, T)
    params = init(mixer, x_btd, positions=positions, segment_ids=None) | {"input_gate_bias": jnp.full((2,), bias), "forget_gate_bias": jnp.array([-1.0, 3.0])}
    y, _ = jax.jit(lambda p: mixer.apply({"params": p}, x_btd, positions=positions, segment_ids=None))(params)
    x, p = np.asarray(x_btd[0], np.float64), jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    q, k, v = (np.reshape(x @ p[n]["kernel"], (T, 2, -1)) for n in "qkv")
    i, f = (4 * np.tanh((x @ p[f"{n}_gate"]["kernel"] + p[f"{n}_gate_bias"]) / 4) for n in ("input", "forget"))
    c, n, out, divided = np.zeros((2, 5, 16)), np.zeros((2, 5)), [], 0
    for t in range(T):
        new = np.exp(i[t])[:, None] * k[t]
        c, n = sigmoid(f[t])[:, None, None] * c + new[..., None] * v[t][:, None], sigmoid(f[t])[:, None] * n + new
        sums = np.abs((n * q[t]).sum(-1)) / np.sqrt(5)
        divided += (sums > 1).sum()
        h = np.einsum("hkv,hk->hv", c, q[t]) / np.sqrt(5) / np.maximum(sums, 1)[:, None]
        h = h - h.mean(-1, keepdims=True)
        out.append((h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6)).reshape(-1) * p["head_norm"]["scale"])
    assert divided == 0 if bias < 0 else 5 < divided < 2 * T
    close(np.asarray(y[0]), (np.array(out) * sigmoid(x @ p["gate"]["kernel"])) @ p["output"]["kernel"], 1e-5)


def test_slstm():
    """Without maxima, in float64."""
    x_btd, positions = inputs(1, T)
    mixer = nn.SLSTM(heads=2, conv=nn.ShortConv(2))
    params = init(mixer, x_btd, positions=positions, segment_ids=None)
    params["recurrence"] = 4 * params["recurrence"]
    y, _ = jax.jit(lambda p: mixer.apply({"params": p}, x_btd, positions=positions, segment_ids=None))(params)
    x, p = np.asarray(x_btd[0], np.float64), jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    filters = p["short_conv"]["filter"]
    u = silu(x * filters[1] + np.concatenate([np.zeros((1, WIDTH)), x[:-1]]) * filters[0])
    c, n, h, out = np.zeros((2, 16)), np.zeros((2, 16)), np.zeros((2, 16)), []
    for t in range(T):
        z, i, f, o = (
            (source[t] @ p[g]["kernel"]).reshape(2, 16) + np.einsum("hkl,hl->hk", p["recurrence"][:, number], h) + p[f"{g}_bias"]
            for number, (g, source) in enumerate({"z": x, "i": u, "f": u, "o": x}.items())
        )
        c, n = sigmoid(f) * c + np.exp(i) * np.tanh(z), sigmoid(f) * n + np.exp(i)
        h = sigmoid(o) * c / n
        normed = h - h.mean(-1, keepdims=True)
        out.append((normed / np.sqrt((normed**2).mean(-1, keepdims=True) + 1e-6)).reshape(-1) * p["head_norm"]["scale"])
    close(np.asarray(y[0]), np.array(out), 1e-5)


@pytest.mark.parametrize("mixer", [nn.MLSTM(eps=0.0, implementation="reference"), nn.SLSTM()], ids=lambda m: type(m).__name__)
def test_maxima_that_cancel_need_no_gradient(mixer):
    """The derivative of the output along one direction of all parameters is what it changes by."""
    with jax.enable_x64(True):
        x_btd, positions = inputs(1, 9, dtype=jnp.float64)
        params = jax.tree.map(lambda a: a.astype(jnp.float64), init(mixer, x_btd, positions=positions, segment_ids=None))
        if isinstance(mixer, nn.MLSTM):
            params["input_gate_bias"] = params["input_gate_bias"] + 12
        way = jax.tree.map(lambda a: jnp.asarray(np.random.default_rng(a.size).normal(size=a.shape)), params)
        value = jax.jit(lambda p: jnp.sin(mixer.apply({"params": p}, x_btd, positions=positions, segment_ids=None)[0]).sum())
        slope = sum(jnp.vdot(g, w) for g, w in zip(*map(jax.tree.leaves, (jax.jit(jax.grad(value))(params), way))))
        after, before = (value(jax.tree.map(lambda a, w: a + step * w, params, way)) for step in (1e-6, -1e-6))
        np.testing.assert_allclose(slope, (after - before) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("pattern", [BlockBefore(3), BlockLocal(3)])
def test_ranges_of_positions_that_see_each_other(pattern):
    for i in range(0, 12, 2):
        for j in range(0, 12, 2):
            sees = any(pattern.sees(a, b) for a in range(i, i + 4) for b in range(j, j + 3))
            assert bool(pattern.may_see(i, i + 3, j, j + 2)) == sees


def test_both_directions_are_the_mixer_from_each_end_of_each_document():
    inner = nn.RGLRU()
    x_btd, _ = inputs(1, 9)
    segments, positions = jnp.array([[1] * 4 + [2] * 5]), jnp.array([[*range(4), *range(5)]])
    mixer = nn.Bidirectional(inner)
    params = init(mixer, x_btd, positions=positions, segment_ids=segments)
    y, _ = jax.jit(lambda p: mixer.apply({"params": p}, x_btd, positions=positions, segment_ids=segments))(params)
    for start, stop in ((0, 4), (4, 9)):
        place = jnp.arange(stop - start)[None]
        forward, back = (
            inner.apply({"params": params[name]}, part, positions=place, segment_ids=None)[0]
            for name, part in (("forward", x_btd[:, start:stop]), ("backward", x_btd[:, start:stop][:, ::-1]))
        )
        close(y[:, start:stop], forward + back[:, ::-1], 1e-5)


HALVED = [nn.LRU(), nn.S4(states=4), nn.S5(), nn.DSS(states=4), nn.GSS(states=4), nn.BiGS(states=4), nn.BlockState(states=4), nn.LightningAttention()]


@pytest.mark.parametrize("mixer", HALVED, ids=lambda m: type(m).__name__)
def test_parameters_in_bfloat16_are_computed_with_in_float32(mixer):
    x_btd, positions = inputs(1, 6)
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), init(mixer, x_btd, positions=positions, segment_ids=None))
    run = jax.jit(lambda params: mixer.apply({"params": params}, x_btd, positions=positions, segment_ids=None)[0])
    close(run(params), run(jax.tree.map(lambda a: a.astype(jnp.float32), params)), 2e-2)


def test_the_first_token_of_a_document_enters_whole_wherever_positions_start():
    """Also after padding, in a later document, and on in decoding, where only the first call begins one."""
    mixer, (x_btd, straight) = nn.RGLRU(), inputs(1, 6)
    params = init(mixer, x_btd, positions=straight, segment_ids=None)
    run = jax.jit(lambda positions, segments: mixer.apply({"params": params}, x_btd, positions=positions, segment_ids=segments)[0])
    segments = jnp.array([[0, 1, 1, 2, 2, 2]])
    np.testing.assert_array_equal(run(straight + 7, None), run(straight, None))
    alone = mixer.apply({"params": params}, x_btd[:, 3:], positions=straight[:, :3], segment_ids=None)[0]
    close(run(straight + 7, segments)[:, 3:], alone, 1e-6)
    state, out = mixer.init_state(1, 6, WIDTH, jnp.float32), []
    for t in range(6):
        y, state = mixer.apply({"params": params}, x_btd[:, t : t + 1], positions=straight[:, t : t + 1] + 7, segment_ids=segments[:, t : t + 1], state=state)
        out.append(y)
    close(np.concatenate(out, 1)[:, 1:], run(straight, segments)[:, 1:], 1e-6)


def test_the_slope_of_the_root_is_bounded_and_its_value_is_not():
    x = jnp.array([0.0, 1e-12, 1e-8, 0.25])
    np.testing.assert_allclose(bounded_root(x), np.sqrt(x))
    np.testing.assert_allclose(jax.vmap(jax.grad(bounded_root))(x), [1000, 1000, 1000, 1], rtol=1e-6)


def test_a_huge_future_value_moves_nothing_before_it():
    x, f = jnp.ones((1, 300, 2)), jnp.ones((300, 2)) / 300
    convolve = jax.jit(lambda x: ops.long_conv(x, f)[0])
    before, after = (convolve(x.at[:, 200].set(value))[:, :200] for value in (1.0, 1e30))
    np.testing.assert_array_equal(before, after)


def test_states_of_all_tokens_never_exist_in_the_selective_scan():
    shapes = [(1, 4096, 16), (1, 4096, 16), (16, 64), (1, 4096, 64), (1, 4096, 64)]
    arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    compiled = jax.jit(jax.grad(lambda *a: ops.selective_scan(*a)[0].sum(), argnums=(0, 1, 2, 3, 4))).lower(*arrays).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4096 * 16 * 64 * 4
