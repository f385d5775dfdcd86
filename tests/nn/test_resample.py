"""Positions drawn anew in training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import nn
from tests.tiny import batch, close, init, model

KEYS = jax.random.split(jax.random.key(0), 300)
SEGMENTS = jnp.array([[1] * 4 + [2] * 5 + [0], [0, 3, 0, 3, 3, 3, 4, 4, 0, 4]], jnp.int32)
POSITIONS = jnp.array([[*range(4), *range(5), 0], [0, 0, 0, 1, 2, 3, 0, 1, 0, 2]], jnp.int32)
DOCUMENTS = [(0, [0, 1, 2, 3]), (0, [4, 5, 6, 7, 8]), (1, [1, 3, 4, 5]), (1, [6, 7, 9])]
SUBJECTS = [nn.RandomizedPositions(longest=12), nn.PoSE(longest=24, chunks=3), nn.SHAPE(shift=7)]


@functools.cache
def draws(resample):
    """(300, B, T) positions."""
    return np.asarray(jax.jit(jax.vmap(lambda key: resample(key, POSITIONS, SEGMENTS)))(KEYS))


@pytest.mark.parametrize("resample", SUBJECTS, ids=lambda r: type(r).__name__)
def test_positions_ascend_within_each_document_and_change_with_the_key(resample):
    drawn = draws(resample)
    assert drawn.dtype == np.int32 and drawn.min() >= 0
    for row, columns in DOCUMENTS:
        assert (np.diff(drawn[:, row, columns], axis=1) > 0).all()
    assert len({d.tobytes() for d in drawn}) > 100
    assert (np.diff(resample(KEYS[0], jnp.arange(10)[None], None)) > 0).all()


def test_randomized_positions_are_uniform_subsets():
    """A document of 4 among 12 positions: each is met by a third of the draws; 300 draws have a standard error of 0.027."""
    drawn = draws(nn.RandomizedPositions(longest=12))
    assert drawn.max() == 11
    for row, columns in DOCUMENTS:
        share = np.bincount(drawn[:, row, columns].ravel(), minlength=12) / 300
        np.testing.assert_allclose(share, len(columns) / 12, atol=0.12)


def test_pose_skips_between_chunks_and_reaches_far():
    drawn = draws(nn.PoSE(longest=24, chunks=3))
    for row, columns in DOCUMENTS:
        assert (drawn[:, row, columns[0]] == 0).all()
        assert ((np.diff(drawn[:, row, columns], axis=1) > 1).sum(axis=1) <= 2).all()
    assert 8 + 10 <= drawn.max() < 24


def test_shape_keeps_distances_and_shifts_documents_apart():
    drawn = draws(nn.SHAPE(shift=7))
    for row, columns in DOCUMENTS:
        assert (np.diff(drawn[:, row, columns], axis=1) == np.diff(POSITIONS[row, jnp.array(columns)])).all()
        assert set(drawn[:, row, columns[0]]) == set(range(8))
    assert (drawn[:, 0, 0] != drawn[:, 0, 4]).any()


@pytest.mark.parametrize(
    "resample,words",
    [(nn.RandomizedPositions(longest=9), "longest=9 .* 10 tokens"), (nn.PoSE(longest=9), "longest=9"), (nn.PoSE(chunks=1), "chunks=1"), (nn.SHAPE(shift=-1), "shift=-1")],
    ids=str,
)
def test_what_cannot_be_is_named(resample, words):
    with pytest.raises(ValueError, match=words):
        resample(KEYS[0], POSITIONS, SEGMENTS)


def test_a_model_resamples_where_it_trains_alone():
    plain = model(depth=1, blocks=(nn.Block(nn.Attention(heads=2), ffn=None),), embedding_init=nn.Normal(1.0))
    resampled = plain.clone(resample=nn.RandomizedPositions(longest=512))
    data = batch(4, 12, 64)
    params = init(plain, data["tokens"])

    @functools.partial(jax.jit, static_argnames="decoder")
    def run(decoder, key, state=None):
        rngs = None if key is None else {"dropout": key}
        return decoder.apply({"params": params}, data["tokens"], segment_ids=data["segment_ids"], state=state, rngs=rngs)[0]

    np.testing.assert_array_equal(run(resampled, None), run(plain, None))
    drawn = run(resampled, KEYS[0])
    assert (drawn == run(resampled, KEYS[0])).all() and (drawn != run(resampled, KEYS[1])).any() and (drawn != run(plain, None)).any()
    close(run(resampled, KEYS[0], plain.init_state(4, 12)), run(plain, None), 1e-5)
