"""Sparse patterns at positions that are not the tokens' numbers: no block is skipped and no key lost that a query sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import ops
from tests.tiny import random


def both(pattern, t, **where):
    """(xla's, the reference's) attention of one small head."""
    q, k, v = (random((1, t, 1, 4), np.float32, seed) for seed in range(3))
    return [ops.attention(q, k, v, pattern=pattern, implementation=i, **where) for i in ("xla", "reference")]


def placed(q_positions, k_positions=None):
    return {"q_positions_bt": q_positions, "k_positions_bs": q_positions if k_positions is None else k_positions}


@pytest.mark.parametrize("where", [{}, placed(np.arange(2048)[None])], ids=["default", "NumPy"])
def test_random_blocks_are_the_same_whether_numpy_or_jax_draws_them(where):
    np.testing.assert_allclose(*both(ops.BigBird(16, 1, 1, 3), 2048, **where), atol=1e-5)
    pattern, block_n = ops.BigBird(), np.arange(4096)
    drawn = [pattern.random_block(x, 2) for x in (block_n, jnp.asarray(block_n), block_n.astype(np.int64))]
    assert all((d == drawn[0]).all() for d in drawn) and (drawn[0] < np.maximum(block_n, 1)).all()
    with jax.enable_x64(True):
        assert (pattern.random_block(jnp.asarray(block_n), 2) == drawn[0]).all()


@pytest.mark.parametrize("where", [{}, placed(jnp.arange(200)[None] * 4 + 3), placed(jnp.arange(200)[None] * 8 + 7)], ids=["default", "3, 7, 11", "7, 15, 23"])
def test_summaries_are_read_wherever_they_lie(where):
    np.testing.assert_allclose(*both(ops.Fixed(8, 1), 200, **where), atol=1e-5)


@pytest.mark.parametrize("pattern", [ops.Strided(3), ops.Dilated(60, 4)], ids=["Strided", "Dilated"])
def test_keys_are_sorted_by_their_own_positions_and_segments(pattern):
    t = jnp.arange(200)[None]
    segments = {"q_segments_bt": 1 + t // 120, "k_segments_bs": jnp.where(t % 9, 1 + t // 90, 0)}
    np.testing.assert_allclose(*both(pattern, 200, **placed(t * 2, 399 - t), **segments), atol=1e-5)


def test_a_negative_number_of_blocks_is_refused():
    for name in ("neighbours", "global_blocks", "random_blocks"):
        with pytest.raises(ValueError, match=f"BigBird: {name}=-1 must be at least 0"):
            ops.BigBird(**{name: -1})
