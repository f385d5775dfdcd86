"""Funnel-Transformer as a block; its numbers are held against transformers' in tests/interop/test_encoders.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import nn
from tests.tiny import close, init

BLOCK = nn.FunnelBlock(nn.FunnelAttention(implementation="reference"), nn.MLP(hidden=48), stages=(1, 1, 1), documents=4)


@functools.cache
def built():
    x_btd = jax.random.normal(jax.random.key(1), (1, 32, 32))
    params = init(BLOCK, x_btd, positions=jnp.arange(32)[None], segment_ids=None)
    run = jax.jit(lambda x, positions, segments: BLOCK.apply({"params": params}, x, positions=positions, segment_ids=segments)[0])
    return x_btd, run


def test_packed_documents_are_pooled_each_by_itself_and_padding_changes_nothing():
    x_btd, run = built()
    rows = [(3, 11), (11, 16), (18, 31)]  # padding before, between and after
    segments, positions = np.zeros((1, 32), np.int32), np.zeros((1, 32), np.int32)
    for number, (start, end) in enumerate(rows, 1):
        segments[0, start:end], positions[0, start:end] = number, np.arange(end - start)
    segments[0, 22] = 0  # and within
    whole = run(x_btd, positions, segments)
    for number in (1, 2, 3):
        of = segments[0] == number
        count = of.sum()
        row = np.pad(x_btd[:, of], ((0, 0), (5, 27 - count), (0, 0)), constant_values=9.0)
        place = np.pad(positions[:, of], ((0, 0), (5, 27 - count)))
        alone = run(row, place, np.pad(np.ones((1, count), np.int32), ((0, 0), (5, 27 - count))))
        close(whole[:, of], alone[:, 5 : 5 + count], 2e-5)
    # The last one again as a text that fills its row.
    close(run(x_btd[:, of], positions[:, of], None), whole[:, of], 2e-5)


def test_a_document_more_than_it_has_room_for_is_not_a_number():
    x_btd, run = built()
    segments = np.repeat(np.arange(1, 6), [8, 6, 6, 6, 6])[None]
    y_btd = np.asarray(run(x_btd, jnp.arange(32)[None], segments))
    np.testing.assert_array_equal(np.isnan(y_btd).any(-1)[0], segments[0] == 5)


def test_a_layer_costs_as_many_flops_as_its_tokens():
    attention = BLOCK.mixer.flops
    expected = 2 * attention(64, 32) + (attention(64, 32) + attention(32, 32)) / 2 + (attention(32, 32) + 2 * attention(16, 32)) / 4
    block = BLOCK.clone(stages=(1, 2, 3))
    assert block.flops(64, 32) == expected and nn.EncoderLM(width=32, depth=1, blocks=(block,)).flops(64) == expected


@pytest.mark.parametrize("changes,words", [({"stages": (2, 0)}, r"stages=\(2, 0\)"), ({"stages": ()}, r"stages=\(\)"), ({"decoder": -1}, "decoder=-1")])
def test_what_cannot_be_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        BLOCK.clone(**changes).init(jax.random.key(0), jnp.zeros((1, 4, 32)), positions=jnp.zeros((1, 4), jnp.int32), segment_ids=None)
