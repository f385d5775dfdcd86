"""Sliding windows: what is visited, what it costs, what the ring holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm.nn import Attention
from effllm.ops.blockwise import Blocks, Rule
from effllm.ops.where import Where
from tests.tiny import WIDTH, init, inputs

NOWHERE = Where()


@pytest.mark.parametrize("queries,keys", [(1000, 1000), (300, 777), (2050, 513)])
@pytest.mark.parametrize("causal,window", [(True, None), (True, 1), (True, 200), (False, 90), (False, None)])
def test_the_pairs_of_blocks_are_those_with_something_to_see(queries, keys, causal, window):
    blocks = Blocks(queries, keys, NOWHERE, Rule(1, causal, window, None, 1.0, None))
    behind = np.arange(queries)[:, None] - np.arange(keys)
    seen = (behind >= 0) | (not causal)
    seen &= True if window is None else np.abs(behind) < window
    wanted = {(i // blocks.q_size, j // blocks.k_size) for i, j in zip(*np.nonzero(seen))}
    assert blocks.may[*np.array(list(wanted)).T].all()
    padded = (queries + blocks.q_padding, keys + blocks.k_padding)
    assert blocks.may.sum() <= len(wanted) + max(padded[0] // blocks.q_size, padded[1] // blocks.k_size)


def test_the_cost_of_a_window_falls_with_it():
    def scores(window):
        blocks = Blocks(8192, 8192, NOWHERE, Rule(1, True, window, None, 1.0, None))
        return blocks.may.sum() * blocks.q_size * blocks.k_size

    assert scores(256) < scores(None) / 10


@pytest.mark.parametrize("window", [None, 5, 64, 100])
def test_flops_count_the_keys_that_are_seen(window):
    length = 64
    seen = sum(min(t + 1, window or length) for t in range(length)) / length
    assert Attention(heads=4, window=window).flops(length, WIDTH) == pytest.approx(4 * seen * WIDTH, rel=0.1)


def test_a_ring_does_not_grow_and_one_too_short_is_not_silent():
    mixer = Attention(heads=4, window=8)
    sizes = [mixer.init_state(2, length, WIDTH, jnp.float32).k_bsgk.shape[1] for length in (4, 8, 1000)]
    assert sizes == [4, 8, 8]
    x_btd, positions = inputs(1, 12)
    params = init(mixer, x_btd, positions=positions, segment_ids=None)
    run = jax.jit(lambda state: mixer.apply({"params": params}, x_btd, positions=positions, segment_ids=None, state=state)[0])
    whole = mixer.apply({"params": params}, x_btd, positions=positions, segment_ids=None)[0]
    np.testing.assert_allclose(run(mixer.init_state(1, 12, WIDTH, jnp.float32)), whole, atol=1e-5)
    short = run(mixer.init_state(1, 4, WIDTH, jnp.float32))
    assert jnp.isfinite(short[:, :4]).all() and jnp.isnan(short[:, 4:]).all()


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match="Attention: window=0 must be at least 1"):
        Attention(window=0).dims(WIDTH)
