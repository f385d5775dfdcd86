"""Positions in the input: augmented, as a flow, complex."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import nn
from tests.tiny import close, init, random

X = random((2, 6, 8), jnp.float32, 0)
POSITIONS = jnp.array([[0, 1, 2, 0, 1, 0], [*range(6)]], jnp.int32)
SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 0], [1] * 6], jnp.int32)
CALL = {"tokens_bt": jnp.zeros((2, 6), jnp.int32), "positions_bt": POSITIONS, "segment_ids": SEGMENTS}


def test_cape_is_sinusoidal_without_a_key():
    close(nn.CAPE().apply({}, X, **CALL), nn.Sinusoidal().apply({}, X, **CALL), 1e-6)


def phases(cape, key):
    """The positions that CAPE used, from the sinusoid of the highest frequency, unwrapped around the plain ones."""
    encoded = cape.apply({}, X, **CALL, rngs={"dropout": key}) - X
    turn = np.angle(np.asarray(encoded[..., 1] + 1j * encoded[..., 0]) * np.exp(-1j * np.asarray(POSITIONS)))
    return np.asarray(POSITIONS) + turn


def test_cape_shifts_documents_whole_and_tokens_a_little_and_scales():
    keys = jax.random.split(jax.random.key(0), 50)
    together = np.stack([phases(nn.CAPE(global_shift=3.0, local_shift=0.0, scaling=1.0), key) for key in keys]) - np.asarray(POSITIONS)
    assert np.ptp(together[:, 0, :3], axis=1).max() < 1e-3 and np.ptp(together[:, 1], axis=1).max() < 1e-3
    assert np.abs(together[:, 0, 0] - together[:, 0, 3]).mean() > 0.5 and 2.5 < np.abs(together).max() <= 3.001
    apart = np.stack([phases(nn.CAPE(global_shift=0.0, local_shift=0.5, scaling=1.0), key) for key in keys])
    assert 0.45 < np.abs(apart - np.asarray(POSITIONS)).max() <= 0.501 and (np.diff(apart[:, 1], axis=1) > 0).all()
    scaled = np.stack([phases(nn.CAPE(global_shift=0.0, local_shift=0.0, scaling=1.5), key) for key in keys])
    np.testing.assert_allclose(scaled[:, 1] / scaled[:, 1, 1:2], np.broadcast_to(np.arange(6), (50, 6)), rtol=1e-3, atol=1e-3)
    assert 1.4 < scaled[:, 1, 1].max() <= 1.501 and 1 / 1.501 <= scaled[:, 1, 1].min() < 0.72


def test_floater_is_the_flow_at_each_position_whatever_its_length():
    floater = nn.FLOATER(length=8, hidden=16, step=0.5)
    params = init(floater, X, **CALL)
    ours = floater.apply({"params": params}, X, **CALL) - X
    p = jax.tree.map(np.asarray, params)

    def slope(y, t):
        h = np.tanh(np.append(y, t) @ p["flow"]["up"]["kernel"] + p["flow"]["up"]["bias"])
        return h @ p["flow"]["down"]["kernel"] + p["flow"]["down"]["bias"]

    y, table = p["start"].astype(np.float64), []
    for n in range(6):  # Euler's method in a thousand steps a position
        table.append(y)
        for i in range(1000):
            y = y + 0.0005 * slope(y, 0.5 * n + 0.0005 * i)
    close(ours, np.stack(table)[np.asarray(POSITIONS)], 2e-3)
    np.testing.assert_array_equal(floater.clone(length=20).apply({"params": params}, X, **CALL), floater.apply({"params": params}, X, **CALL))
    beyond = floater.clone(length=5).apply({"params": params}, X, **CALL)
    assert np.isnan(beyond[1, 5]).all() and np.isfinite(beyond[1, :5]).all() and floater.limit == 8


def test_complex_words_turn_by_their_frequency():
    module = nn.ComplexEmbedding()
    params = init(module, X, **CALL)
    words = np.asarray(X[..., :4] + 1j * X[..., 4:])
    frequencies = 10000.0 ** (-np.arange(0, 8, 2) / 8) * np.asarray(params["frequency"])
    turned = words * np.exp(1j * np.asarray(POSITIONS)[..., None] * frequencies)
    close(module.apply({"params": params}, X, **CALL), np.concatenate([turned.real, turned.imag], -1), 1e-5)
    grad = jax.grad(lambda p: jnp.sum(jnp.sin(module.apply({"params": p}, X, **CALL))))(params)["frequency"]
    assert (np.abs(grad) > 0).all()


@pytest.mark.parametrize(
    "position,words",
    [(nn.CAPE(scaling=0.5), "scaling=0.5 at least 1"), (nn.CAPE(local_shift=-1.0), "local_shift=-1.0 must not be negative"), (nn.FLOATER(hidden=0), "hidden=0")],
    ids=str,
)
def test_what_cannot_be_is_named(position, words):
    with pytest.raises(ValueError, match=words):
        position.init(jax.random.key(0), X, **CALL)
    with pytest.raises(ValueError, match="width=7 is odd"):
        nn.ComplexEmbedding().init(jax.random.key(0), X[..., :7], **CALL)
