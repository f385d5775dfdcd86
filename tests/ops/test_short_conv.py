"""The short convolution against its definition: a loop over the real tokens of each document."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import nn, ops
from effllm.nn.recurrent import RecurrentState, documents
from effllm.ops.short_conv import Tail
from tests.tiny import WIDTH, close, init, inputs, random

W, D = 4, 3
SEGMENTS = np.array([[0, 0, 1, 1, 0, 1, 2, 2, 1, 0, 2, 0], [7, 7, 7, 3, 3, 3, 3, 3, 4, 5, 5, 5], [0] * 12], np.int32)


def brute(x_btd, filter_wd, bias_d, segments_bt, tail):
    """(y with zeros at padding, the last W − 1 real inputs and their segments)."""
    y = np.zeros(x_btd.shape)
    tails = []
    for b, row in enumerate(segments_bt):
        seen = [(s, x) for s, x in zip(np.asarray(tail.segments_bw[b]), np.asarray(tail.x_bwd[b]))]
        for t, segment in enumerate(row):
            if segment == 0:
                continue
            seen.append((segment, x_btd[b, t]))
            run = itertools.takewhile(lambda place: place[1][0] == segment, enumerate(seen[:-W - 1:-1]))
            y[b, t] = bias_d + sum(filter_wd[W - 1 - back] * x for back, (_, x) in run)
        tails.append(seen[len(seen) - W + 1 :])
    return y, Tail(np.array([[x for _, x in rows] for rows in tails]), np.array([[s for s, _ in rows] for rows in tails]))


@pytest.fixture
def arrays():
    tail = Tail(random((3, W - 1, D), jnp.float32, 3), jnp.array([[0, 1, 1], [7, 7, 7], [0, 0, 9]]))
    return random((3, 12, D), jnp.float32, 0), random((W, D), jnp.float32, 1), random((D,), jnp.float32, 2), tail


def test_taps_skip_padding_and_stay_in_their_document(arrays):
    x, kernel, bias, tail = arrays
    y, after = jax.jit(ops.short_conv)(x, kernel, bias, segments_bt=SEGMENTS, tail=tail)
    expected, last = brute(np.asarray(x), np.asarray(kernel), np.asarray(bias), SEGMENTS, tail)
    np.testing.assert_allclose(np.where(SEGMENTS[..., None] > 0, y, 0), expected, atol=1e-6)
    np.testing.assert_allclose(after.x_bwd, last.x_bwd)
    np.testing.assert_array_equal(after.segments_bw, last.segments_bw)


def test_without_segments_each_row_goes_on_with_its_last_document(arrays):
    x, kernel, bias, tail = arrays
    going_on = np.broadcast_to(np.array([[1], [7], [9]], np.int32), (3, 12))
    y, after = ops.short_conv(x, kernel, bias, tail=tail)
    said, said_after = ops.short_conv(x, kernel, bias, segments_bt=going_on, tail=tail)
    np.testing.assert_allclose(y, said, atol=1e-6)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), after, said_after))
    assert not np.allclose(y[2], ops.short_conv(x, kernel, bias)[0][2])  # the tail is read


@pytest.mark.parametrize("then", [np.ones((1, 3), np.int32), None], ids=["said", "going on"])
def test_an_id_that_comes_back_is_a_new_document_across_calls_too(then):
    """A tail of documents 1, 2, 1: of its tokens only the last are of the document that goes on."""
    x, kernel = random((1, 6, D), jnp.float32, 0), random((W, D), jnp.float32, 1)
    first, tail = ops.short_conv(x[:, :3], kernel, segments_bt=np.array([[1, 2, 1]]), tail=Tail.empty(1, W, D, jnp.float32))
    second, _ = ops.short_conv(x[:, 3:], kernel, segments_bt=then, tail=tail)
    expected, _ = ops.short_conv(x, kernel, segments_bt=np.array([[1, 2, 3, 3, 3, 3]]))
    np.testing.assert_allclose(np.concatenate([first, second], 1), expected, atol=1e-6)


@pytest.mark.parametrize("mixer", [nn.Mamba(), nn.RGLRU(), nn.H3(), nn.RWKV6TimeMix()], ids=lambda m: type(m).__name__)
def test_a_recurrence_and_its_convolution_see_the_same_documents(mixer):
    x_btd, _ = inputs(1, 8)
    positions, back, fresh = (jnp.array([row]) for row in ([0, 1, 2, 0, 0, 1, 2, 3], [1, 1, 1, 2, 1, 1, 1, 1], [1, 1, 1, 2, 3, 3, 3, 3]))
    params = init(mixer, x_btd, positions=positions, segment_ids=None)
    run = jax.jit(lambda segments: mixer.apply({"params": params}, x_btd, positions=positions, segment_ids=segments)[0])
    np.testing.assert_allclose(run(back), run(fresh), atol=1e-6)


def test_gradients_reach_the_tail_and_equal_differences(arrays):
    x, kernel, bias, tail = arrays
    weights = jnp.where(SEGMENTS[..., None] > 0, random((3, 12, D), jnp.float32, 5), 0)

    def loss(x, kernel, bias, old):
        return jnp.sum(weights * ops.short_conv(x, kernel, bias, segments_bt=SEGMENTS, tail=tail._replace(x_bwd=old), activation=jax.nn.silu)[0])

    def definition(x, kernel, bias, old):
        y, _ = brute(*map(np.asarray, (x, kernel, bias)), SEGMENTS, tail._replace(x_bwd=old))
        return float(np.sum(np.asarray(weights, np.float64) * y / (1 + np.exp(-y))))

    given = tuple(np.asarray(a, np.float64) for a in (x, kernel, bias, tail.x_bwd))
    numeric = tuple(np.zeros(a.shape) for a in given)
    for i, a in enumerate(given):
        for at in np.ndindex(a.shape):
            step = np.zeros(a.shape)
            step[at] = 1e-5
            high, low = (definition(*(b + s * step if j == i else b for j, b in enumerate(given))) for s in (1, -1))
            numeric[i][at] = (high - low) / 2e-5
    close(jax.grad(loss, argnums=(0, 1, 2, 3))(x, kernel, bias, tail.x_bwd), numeric, 1e-5)
    assert np.abs(numeric[3]).max() > 0.1


def test_bfloat16_sums_in_float32():
    x = jnp.full((1, 8, 1), 1.0, jnp.bfloat16)
    kernel = jnp.array([[-256.0], [1.0], [1.0], [256.0]])  # in bfloat16 256 + 1 is 256
    y, _ = ops.short_conv(x, kernel)
    assert y.dtype == jnp.bfloat16 and float(y[0, -1, 0]) == 2.0


@pytest.mark.parametrize("change, message", [
    ({"segments": (3, 11)}, r"segments_bt has shape \(3, 11\), the input \(3, 12\)"), ({"segments": (1, 12)}, "segments_bt has shape"),
    ({"kernel": (1, D)}, "1 taps mix no tokens"),
    ({"kernel": (4, 5)}, "the filter has 5 channels, its input 3"), ({"tail": (3, 2, D)}, "tail has shape .*another model's state"),
])  # fmt: skip
def test_errors(arrays, change, message):
    x, kernel, bias, tail = arrays
    kernel = jnp.zeros(change.get("kernel", kernel.shape))
    tail = tail if "tail" not in change else Tail(jnp.zeros(change["tail"]), tail.segments_bw)
    with pytest.raises(ValueError, match=message):
        ops.short_conv(x, kernel, None, segments_bt=jnp.ones(change["segments"], jnp.int32) if "segments" in change else None, tail=tail)


def test_documents_of_a_call():
    state = RecurrentState(None, (), jnp.array([1, 6, 9]))
    found = documents(jnp.asarray(SEGMENTS), state)
    resets = [np.flatnonzero(row).tolist() for row in np.asarray(found.reset_bt)]
    assert resets == [[6, 8, 10], [0, 3, 8, 9], []]
    assert found.last_b.tolist() == [2, 5, 9] and documents(None, state).last_b.tolist() == [1, 6, 9]
    fresh = documents(jnp.asarray(SEGMENTS), None)
    assert np.flatnonzero(fresh.reset_bt[1]).tolist() == [3, 8, 9]  # nothing to forget before the first token
    assert documents(None, RecurrentState.empty(2, None)).last_b.tolist() == [1, 1]


SUBJECTS = [nn.LinearAttention, nn.RWKV7ChannelMix, nn.S4D, nn.SLSTM, nn.Performer, nn.MLSTM, nn.Mega, nn.AFTConv, nn.BlockRecurrent]


@pytest.mark.parametrize("mixer", [kind() for kind in SUBJECTS], ids=lambda m: type(m).__name__)
def test_segments_and_states_of_other_sizes_are_named(mixer):
    x_btd, positions = inputs(2, 6)
    params = jax.eval_shape(lambda: mixer.init(jax.random.key(0), x_btd, positions=positions, segment_ids=None))

    def shapes(segments, rows=None):
        state = None if rows is None else mixer.init_state(rows, 6, WIDTH, jnp.float32)
        return jax.eval_shape(lambda p: mixer.apply(p, x_btd, positions=positions, segment_ids=segments, state=state)[0], params)

    for shape in ((2, 5), (2, 7), (1, 6)):
        with pytest.raises(ValueError, match="segment_ids has shape .*, the input .*give a segment for each token"):
            shapes(jnp.ones(shape, jnp.int32))
    for rows in (1, 3):
        for segments in (None, jnp.ones((2, 6), jnp.int32)):
            with pytest.raises(ValueError, match=f"the state holds {rows} rows, the input has 2"):
                shapes(segments, rows)
