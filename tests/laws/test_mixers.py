"""The laws of mixers. Subjects: every public mixer of effllm.nn in all its variants, and attention with every public position (tests/tiny.py finds them).

Compilation is what these laws cost, so they choose lengths that coincide: a text of 13 tokens is cut, packed and padded as 5 and 8 of them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import nn
from effllm.shard import MeshShape
from tests.tiny import WIDTH, close, init, inputs, label, mixers, positioned

CUT, T = 5, 13
# Decoders first: pytest then runs all laws of one mixer one after another, and what one law compiled serves the next.
MIXERS = sorted(mixers() + positioned(), key=lambda m: not m.causal)
every_mixer = pytest.mark.parametrize("mixer", MIXERS, ids=label, scope="module")
every_decoder = pytest.mark.parametrize("mixer", [m for m in MIXERS if m.causal], ids=label, scope="module")


@functools.lru_cache(maxsize=2)
def built(mixer):
    """(jitted apply(x, positions, segment_ids, state), parameters)."""
    x_btd, positions = inputs(2, T)
    params = init(mixer, x_btd, positions=positions, segment_ids=None)
    apply = jax.jit(lambda p, x, positions, segments, state: mixer.apply({"params": p}, x, positions=positions, segment_ids=segments, state=state))
    return functools.partial(apply, params), params


@functools.lru_cache(maxsize=2)
def pullback(mixer):
    """Jitted (parameters, x, positions, segment_ids, an output's cotangent) -> (output, gradients of the parameters and of x)."""

    @jax.jit
    def run(params, x_btd, positions, segments, cotangent_btd):
        y_btd, back = jax.vjp(lambda p, x: mixer.apply({"params": p}, x, positions=positions, segment_ids=segments)[0], params, x_btd)
        return y_btd, back(cotangent_btd)

    return run


def packed(batch=2):
    """Segments of two documents in even rows, of one document and padding in odd ones; positions restart."""
    one, other = range(CUT), range(T - CUT)
    segments = np.array([[1] * CUT + [2] * (T - CUT), [1] * (T - CUT) + [0] * CUT] * (batch // 2), np.int32)
    positions = np.array([[*one, *other], [*other, *[0] * CUT]] * (batch // 2), np.int32)
    return segments, positions


def text(batch=2, dtype=np.float32):
    """(x (B, T, D), positions (B, T)) as NumPy's arrays, which are cut and joined without a compilation."""
    x_btd, positions = inputs(batch, T)
    return np.asarray(x_btd, dtype), np.asarray(positions)


def empty(mixer):
    """A state of two rows that holds the text."""
    return mixer.init_state(2, T, WIDTH, jnp.float32)


@every_decoder
def test_splitting(mixer):
    """In two; token by token, below, is every other cut."""
    run, _ = built(mixer)
    x_btd, positions = text()
    whole, _ = run(x_btd, positions, None, None)
    at_once, final = run(x_btd, positions, None, empty(mixer))
    first, state = run(x_btd[:, :CUT], positions[:, :CUT], None, empty(mixer))
    second, state = run(x_btd[:, CUT:], positions[:, CUT:], None, state)
    close(at_once, whole, 1e-5)
    close(np.concatenate([first, second], 1), whole, 1e-5)
    close(state, final, 1e-5)


@every_decoder
def test_token_by_token(mixer):
    run, _ = built(mixer)
    x_btd, _ = text()
    segments, positions = packed()
    whole, final = run(x_btd, positions, segments, empty(mixer))
    state, out = empty(mixer), []
    for t in range(T):
        y, state = run(x_btd[:, t : t + 1], positions[:, t : t + 1], segments[:, t : t + 1], state)
        out.append(y)
    real = segments[..., None] > 0
    close(np.concatenate(out, 1) * real, whole * real, 1e-5)
    close(state, final, 1e-5)


@every_mixer
@pytest.mark.parametrize("pack", [False, True], ids=["one", "packed"])
def test_causality(mixer, pack):
    """Packed documents in float64, by the program whose layouts are tried below."""
    _, params = built(mixer)
    dtype = np.float64 if pack else np.float32
    x_btd, positions = text(4 if pack else 2, dtype)
    segments, positions = packed(4) if pack else (None, positions)
    with jax.enable_x64(pack):
        outputs = [np.broadcast_to(np.eye(T, dtype=dtype)[s, :, None], x_btd.shape) for s in range(T)]
        params = jax.tree.map(lambda p: np.asarray(p, dtype), params)
        influence_sbt = np.stack([np.abs(pullback(mixer)(params, x_btd, positions, segments, output)[1][1]).sum(-1) for output in outputs])
    future = np.triu(np.ones((T, T), bool), 1)
    assert not mixer.causal or not influence_sbt.swapaxes(0, 1)[:, future].any()
    assert influence_sbt[-1, 0].any()


@every_mixer
def test_isolation(mixer):
    run, _ = built(mixer)
    x_btd, straight = text()
    segments, positions = packed()
    together, _ = run(x_btd, positions, segments, None)
    short, _ = run(x_btd[:, :CUT], straight[:, :CUT], None, None)
    long, _ = run(np.stack([x_btd[0, CUT:], x_btd[1, :-CUT]]), straight[:, :-CUT], None, None)
    close(together[:1, :CUT], short[:1], 1e-5)
    close(together[:1, CUT:], long[:1], 1e-5)
    close(together[1:, :-CUT], long[1:], 1e-5)
    noisy, _ = run(np.where(segments[..., None] > 0, x_btd, 1e4).astype(np.float32), positions, segments, None)
    np.testing.assert_array_equal(noisy[1, :-CUT], together[1, :-CUT])


def outline(state):
    """(tree, shapes) of a state."""
    return jax.tree.structure(state), tuple(a.shape for a in jax.tree.leaves(state))


def shaped(mixer, width=WIDTH):
    """A state of the mixer, abstract."""
    return jax.eval_shape(lambda: mixer.init_state(2, T, width, jnp.float32))


@functools.cache
def states():
    """Those states of plain mixers that differ, by outline."""
    found = {}
    for mixer in MIXERS:
        if mixer.causal and mixer == type(mixer)():
            found.setdefault(outline(shaped(mixer)), shaped(mixer))
    return found


@every_decoder
def test_a_state_of_another_mixer_or_width_is_refused(mixer):
    _, params = built(mixer)
    x_btd, positions = inputs(2, 1)
    own = outline(shaped(mixer))
    for state in (*states().values(), shaped(mixer, 2 * WIDTH)):
        if outline(state) == own:
            continue
        with pytest.raises(ValueError, match="another model's state"):
            jax.eval_shape(lambda p, s: mixer.apply({"params": p}, x_btd, positions=positions, segment_ids=None, state=s), params, state)


@every_decoder
def test_a_state_can_be_donated(mixer):
    leaves = jax.tree.leaves(mixer.init_state(1, 4, WIDTH, jnp.float32))
    assert len({a.unsafe_buffer_pointer() for a in leaves if a.size}) == len([a for a in leaves if a.size])


@every_decoder
def test_padding_leaves_the_state_as_if_absent(mixer):
    run, _ = built(mixer)
    x_btd, positions = text()
    gaps = np.array([[1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0]], np.int32)
    padded, with_gaps = run(x_btd, positions, gaps, empty(mixer))
    plain, without = run(*(a[gaps > 0].reshape(2, T - CUT, *a.shape[2:]) for a in (x_btd, positions)), None, empty(mixer))
    close(np.asarray(padded)[gaps > 0].reshape(plain.shape), plain, 1e-5)
    close(with_gaps, without, 1e-6)


@every_mixer
def test_layout(mixer):
    """In float64, where what a mesh adds up in another order is not what differs."""
    _, params = built(mixer)
    (x_btd, _), (segments, positions) = text(4, np.float64), packed(4)
    with jax.enable_x64(True):
        arrays = jax.tree.map(lambda p: np.asarray(p, np.float64), params), x_btd, positions, segments
        y_btd, _ = pullback(mixer)(*arrays, np.zeros_like(x_btd))
        arrays = *arrays, np.cos(y_btd)  # of sum(sin(y))
        alone = pullback(mixer)(*arrays)
        with jax.set_mesh(MeshShape(2, 2, 2).build()):
            on_mesh = pullback(mixer)(*arrays)
    close(on_mesh, alone, 1e-5)


@every_mixer
def test_finite_in_bfloat16(mixer):
    x_btd, positions = inputs(1, 2048, dtype=jnp.bfloat16)
    x_btd = x_btd * 30  # saturates softmaxes and gates
    _, params = built(mixer)

    def loss(p, x):
        return jnp.mean(mixer.apply({"params": p}, x, positions=positions, segment_ids=None)[0].astype(jnp.float32))

    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x_btd)
    assert all(np.isfinite(np.asarray(a, np.float32)).all() for a in jax.tree.leaves((value, grads)))


@every_mixer
def test_mixing_costs_no_less_than_nothing(mixer):
    assert all(mixer.flops(length, width) >= 0 for length in (16, 256, 4096) for width in (WIDTH, 1024))


@every_mixer
def test_without_causality_there_is_no_state(mixer):
    if not mixer.causal:
        with pytest.raises(ValueError, match=f"{type(mixer).__name__}.*cannot decode"):
            mixer.init_state(1, 4, WIDTH, jnp.float32)
        with pytest.raises(ValueError, match=f"{type(mixer).__name__} is not causal.*EncoderLM"):
            nn.DecoderLM(blocks=(nn.Block(mixer),), depth=1, width=WIDTH).validate()


@every_decoder
def test_writing_beyond_the_state_is_not_silent(mixer):
    run, _ = built(mixer)
    x_btd, positions = inputs(1, 6)
    state = mixer.init_state(1, 4, WIDTH, jnp.float32)
    if all(a.shape == b.shape for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(mixer.init_state(1, 9, WIDTH, jnp.float32)))):
        return  # a state of constant size has no end
    y, _ = run(x_btd, positions, None, state)
    assert np.isfinite(y[:, :4]).all() and np.isnan(y[:, 4:]).all()
