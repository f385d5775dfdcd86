"""The laws of mixers. Subjects: every public mixer of effllm.nn in all its variants, and attention with every public position (tests/tiny.py finds them)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import nn
from effllm.shard import MeshShape
from tests.tiny import WIDTH, close, init, inputs, label, mixers, positioned

T = 13


@pytest.fixture(scope="module", params=mixers() + positioned(), ids=label)
def mixer(request):
    """All laws of one mixer follow one another and share what was compiled."""
    return request.param


@pytest.fixture(scope="module", params=[m for m in mixers() + positioned() if m.causal], ids=label)
def decoding(request):
    """A mixer that keeps a state."""
    return request.param


@functools.cache
def built(mixer):
    """(jitted apply(x, positions, segment_ids, state), parameters)."""
    x_btd, positions = inputs(2, T)
    params = init(mixer, x_btd, positions=positions, segment_ids=None)
    apply = jax.jit(lambda p, x, positions, segments, state: mixer.apply({"params": p}, x, positions=positions, segment_ids=segments, state=state))
    return functools.partial(apply, params), params


def packed():
    """Segments of two documents and padding in row 0, one document in row 1; positions restart."""
    segments = jnp.array([[1] * 5 + [2] * 6 + [0] * 2, [1] * T], jnp.int32)
    positions = jnp.array([[*range(5), *range(6), 0, 0], [*range(T)]], jnp.int32)
    return segments, positions


def test_splitting(decoding):
    """In two; token by token, below, is every other cut."""
    cut = 4
    run, _ = built(decoding)
    x_btd, positions = inputs(2, T)
    whole, _ = run(x_btd, positions, None, None)
    empty = decoding.init_state(2, T, WIDTH, jnp.float32)
    at_once, final = run(x_btd, positions, None, empty)
    first, state = run(x_btd[:, :cut], positions[:, :cut], None, empty)
    second, state = run(x_btd[:, cut:], positions[:, cut:], None, state)
    close(at_once, whole, 1e-5)
    close(jnp.concatenate([first, second], 1), whole, 1e-5)
    close(state, final, 1e-5)


def test_token_by_token(decoding):
    run, _ = built(decoding)
    x_btd, positions = inputs(2, T)
    segments, positions = packed()
    whole, final = run(x_btd, positions, segments, decoding.init_state(2, T, WIDTH, jnp.float32))
    state, out = decoding.init_state(2, T, WIDTH, jnp.float32), []
    for t in range(T):
        y, state = run(x_btd[:, t : t + 1], positions[:, t : t + 1], segments[:, t : t + 1], state)
        out.append(y)
    real = np.asarray(segments)[..., None] > 0
    close(jnp.concatenate(out, 1) * real, whole * real, 1e-5)
    close(state, final, 1e-5)


@pytest.mark.parametrize("pack", [False, True], ids=["one", "packed"])
def test_causality(mixer, pack):
    run, _ = built(mixer)
    x_btd, positions = inputs(2, T)
    segments, positions = packed() if pack else (None, positions)
    influence_stbt = jnp.abs(jax.jit(jax.jacrev(lambda x: run(x, positions, segments, None)[0].sum((0, 2))))(x_btd)).sum(-1)
    future = np.triu(np.ones((T, T), bool), 1)
    assert not mixer.causal or not np.asarray(influence_stbt).swapaxes(0, 1)[:, future].any()
    assert np.asarray(influence_stbt)[-1, 1].any()


def test_isolation(mixer):
    run, _ = built(mixer)
    x_btd, _ = inputs(2, T)
    segments, positions = packed()
    together, _ = run(x_btd, positions, segments, None)
    for start, stop in ((0, 5), (5, 11)):
        alone, _ = run(x_btd[:1, start:stop], positions[:1, start:stop], None, None)
        close(together[:1, start:stop], alone, 1e-5)
    noisy, _ = run(x_btd.at[0, 11:].set(1e4), positions, segments, None)
    np.testing.assert_array_equal(noisy[:, :11], together[:, :11])


def test_a_state_can_be_donated(decoding):
    leaves = jax.tree.leaves(decoding.init_state(1, 4, WIDTH, jnp.float32))
    assert len({a.unsafe_buffer_pointer() for a in leaves if a.size}) == len([a for a in leaves if a.size])


def test_padding_leaves_the_state_as_if_absent(decoding):
    run, _ = built(decoding)
    x_btd, positions = inputs(1, 6)
    gaps = jnp.array([[1, 0, 1, 1, 0, 0]], jnp.int32)
    kept = np.flatnonzero(np.asarray(gaps[0]))
    padded, with_gaps = run(x_btd, positions, gaps, decoding.init_state(1, 6, WIDTH, jnp.float32))
    plain, without = run(x_btd[:, kept], positions[:, kept], None, decoding.init_state(1, 6, WIDTH, jnp.float32))
    close(padded[:, kept], plain, 1e-5)
    close(with_gaps, without, 1e-6)


def test_layout(mixer):
    """In float64, where what a mesh adds up in another order is not what differs."""
    _, params = built(mixer)
    with jax.enable_x64(True):
        params, (x_btd, positions) = jax.tree.map(lambda p: p.astype(jnp.float64), params), inputs(4, T, dtype=jnp.float64)
        segments = jnp.ones((4, T), jnp.int32)

        def loss(p, x):
            return jnp.sum(jnp.sin(mixer.apply({"params": p}, x, positions=positions, segment_ids=segments)[0]))

        alone = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x_btd)
        with jax.set_mesh(MeshShape(2, 2, 2).build()):
            on_mesh = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x_btd)
        close(on_mesh, alone, 1e-5)


def test_finite_in_bfloat16(mixer):
    x_btd, positions = inputs(1, 2048, dtype=jnp.bfloat16)
    x_btd = x_btd * 30  # saturates softmaxes and gates
    params = init(mixer, x_btd[:, :4], positions=positions[:, :4], segment_ids=None)

    def loss(p, x):
        return jnp.mean(mixer.apply({"params": p}, x, positions=positions, segment_ids=None)[0].astype(jnp.float32))

    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x_btd)
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves((value, grads)))


def test_without_causality_there_is_no_state(mixer):
    if not mixer.causal:
        with pytest.raises(ValueError, match=f"{type(mixer).__name__}.*cannot decode"):
            mixer.init_state(1, 4, WIDTH, jnp.float32)
        with pytest.raises(ValueError, match=f"{type(mixer).__name__} is not causal.*EncoderLM"):
            nn.DecoderLM(blocks=(nn.Block(mixer),), depth=1, width=WIDTH).validate()


def test_writing_beyond_the_state_is_not_silent(decoding):
    run, _ = built(decoding)
    x_btd, positions = inputs(1, 6)
    state = decoding.init_state(1, 4, WIDTH, jnp.float32)
    if all(a.shape == b.shape for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(decoding.init_state(1, 9, WIDTH, jnp.float32)))):
        return  # a state of constant size has no end
    y, _ = run(x_btd, positions, None, state)
    assert jnp.isfinite(y[:, :4]).all() and jnp.isnan(y[:, 4:]).all()
