"""Random token dropping: what is kept goes through the block, what is not goes around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import nn
from effllm.nn.random_ltd import kept_tokens
from tests import tiny

KEY = jax.random.key(0)
FIELDS = {"mixer": nn.Attention(heads=4), "ffn": nn.SwiGLU(hidden=48)}


@pytest.fixture(scope="module")
def plain():
    x_btd, positions = tiny.inputs(2, 10)
    block = nn.Block(**FIELDS)
    return block, tiny.init(block, x_btd, positions=positions, segment_ids=None), x_btd, positions


def test_it_is_the_block_where_nothing_is_dropped(plain):
    block, params, x_btd, positions = plain
    expected, _ = block.apply({"params": params}, x_btd, positions=positions, segment_ids=None)
    for keep, rngs in ((0.5, None), (1.0, {"dropout": KEY}), (0.96, {"dropout": KEY})):
        y_btd, _ = nn.RandomLTD(**FIELDS, keep=keep).apply({"params": params}, x_btd, positions=positions, segment_ids=None, rngs=rngs)
        assert np.array_equal(y_btd, expected), keep


@pytest.mark.parametrize("multiple,count", [(1, 5), (4, 4)])
def test_kept_tokens_pass_with_their_positions_and_segments(plain, multiple, count):
    block, params, x_btd, positions = plain
    segments = jnp.array([[1] * 4 + [2] * 4 + [0] * 2, [1] * 10])
    layer = nn.RandomLTD(**FIELDS, keep=0.5, multiple=multiple)
    y_btd, _ = layer.apply({"params": params}, x_btd, positions=positions, segment_ids=segments, rngs={"dropout": KEY})
    moved = np.any(np.asarray(y_btd != x_btd), axis=2)
    assert moved.sum(1).tolist() == [count, count] and not np.array_equal(moved[0], moved[1])
    for b in range(2):
        index = np.flatnonzero(moved[b])
        alone, _ = block.apply({"params": params}, x_btd[b : b + 1, index], positions=positions[b : b + 1, index], segment_ids=segments[b : b + 1, index])
        np.testing.assert_allclose(y_btd[b, index], alone[0], atol=1e-5)


def test_causality_and_gradients(plain):
    _, params, x_btd, positions = plain
    layer = nn.RandomLTD(**FIELDS, keep=0.5)

    def out(x_btd):
        return layer.apply({"params": params}, x_btd, positions=positions, segment_ids=None, rngs={"dropout": KEY})[0][0]

    jacobian = np.abs(jax.jacrev(out)(x_btd)[:, :, 0]).sum((1, 3))
    assert not np.triu(jacobian, 1).any() and (np.diag(jacobian) > 0).all()


def test_in_a_decoder_layers_drop_different_tokens_and_values_stay_values():
    block = nn.RandomLTD(**FIELDS, keep=0.5)
    model = tiny.model(blocks=(block,), depth=3)
    batch = tiny.batch(2, 12, 64)
    params = tiny.init(model, batch["tokens"])
    plain = tiny.model(blocks=(nn.Block(**FIELDS),), depth=3)
    assert jax.tree.structure(params) == jax.tree.structure(tiny.init(plain, batch["tokens"]))
    run = jax.jit(lambda key: model.apply({"params": params}, batch["tokens"], rngs={"dropout": key})[0])
    assert not np.array_equal(run(KEY), run(jax.random.key(1))) and np.array_equal(run(KEY), run(KEY))
    np.testing.assert_allclose(model.apply({"params": params}, batch["tokens"])[0], plain.apply({"params": params}, batch["tokens"])[0], atol=1e-5)


def test_tokens_are_kept_uniformly():
    index = kept_tokens(KEY, 4000, 8, 3)
    assert (jnp.diff(index, axis=1) > 0).all()
    assert np.bincount(np.ravel(index), minlength=8) / 4000 == pytest.approx(np.full(8, 3 / 8), abs=0.04)


def test_refusals(plain):
    _, params, x_btd, positions = plain
    for changed in ({"keep": 0.0}, {"keep": 1.1}, {"multiple": 0}):
        with pytest.raises(ValueError, match="RandomLTD"):
            nn.RandomLTD(**FIELDS, **changed).apply({"params": params}, x_btd, positions=positions, segment_ids=None)
