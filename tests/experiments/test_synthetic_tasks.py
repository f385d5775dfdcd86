"""The rows of the synthetic experiments ask what they claim to ask, and their blocks are those of effllm.nn taken apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from flax.core import meta

from effllm import nn
from experiments.mqar.run import Convolved, recall
from experiments.selective_copying.blocks import S4, S6, H3Gate, MambaGate
from experiments.selective_copying.run import MARK, NOISE, copying
from experiments.synthetic_runs import bare, tuned

VOCAB, LENGTH, PAIRS = 32, 40, 5


def test_every_answer_is_the_value_that_the_row_showed_behind_the_key():
    batch = recall(np.random.default_rng(0), 1500, VOCAB, LENGTH, PAIRS)
    for tokens, targets, weights in zip(batch["tokens"], batch["targets"], batch["weights"]):
        shown = dict(tokens[: 2 * PAIRS].reshape(PAIRS, 2).tolist())
        assert len(shown) == len(set(shown.values())) == PAIRS
        assert all(0 < key < VOCAB // 2 <= value < VOCAB for key, value in shown.items())
        asked = {int(tokens[t]): int(targets[t]) for t in np.flatnonzero(weights)}
        assert asked == shown
        assert set(np.flatnonzero(tokens[2 * PAIRS :]) + 2 * PAIRS) == set(np.flatnonzero(weights))


def test_rows_differ_within_and_between_blocks():
    tokens = recall(np.random.default_rng(0), 2500, VOCAB, LENGTH, PAIRS)["tokens"]
    assert len(np.unique(tokens, axis=0)) == len(tokens)


@pytest.mark.parametrize("power", (0.01, 1.0))
def test_gaps_follow_the_power_law(power):
    # With one pair nothing is taken out: place g has probability (g + 1)^(power − 1) over their sum.
    batch = recall(np.random.default_rng(0), 20000, VOCAB, 22, 1, power)
    found = np.bincount((np.argmax(batch["weights"], axis=1) - 2) // 2, minlength=10) / 20000
    odds = np.arange(1.0, 11) ** (power - 1)
    np.testing.assert_allclose(found, odds / odds.sum(), atol=0.012)  # over three standard errors


def test_rows_too_short_for_their_pairs_are_refused():
    with pytest.raises(ValueError, match="5 pairs need a length of at least 20"):
        recall(np.random.default_rng(0), 2, VOCAB, 18, PAIRS)


def test_marks_ask_for_the_data_in_its_order():
    batch = copying(np.random.default_rng(0), 1500, 7, 20, 4)
    for tokens, targets, weights in zip(batch["tokens"], batch["targets"], batch["weights"]):
        assert tokens[:20][tokens[:20] != NOISE].tolist() == targets[20:].tolist()
        assert (tokens[20:] == MARK).all() and (tokens[:20] != MARK).all() and (targets[20:] >= 2).all()
        assert weights.tolist() == [0.0] * 20 + [1.0] * 4
    held = (batch["tokens"][:, :20] != NOISE).mean(axis=0)
    np.testing.assert_allclose(held, 4 / 20, atol=0.05)  # anywhere alike


def flat(params) -> dict:
    """Leaves by path, without the level of an inner layer."""
    return {tuple(name for name in path if name != "layer"): leaf for path, leaf in traverse_util.flatten_dict(params).items()}


@pytest.mark.parametrize("apart, whole", ((H3Gate(S4()), nn.H3()), (MambaGate(S6()), nn.Mamba())), ids=("H3", "Mamba"))
def test_blocks_taken_apart_are_those_of_the_library(apart, whole):
    x_btd = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 8)), jnp.float32)
    arguments = {"positions": jnp.zeros((2, 6), jnp.int32), "segment_ids": jnp.array([[1] * 4 + [2] * 2, [1] * 5 + [0]])}

    @jax.jit
    def both():
        params = meta.unbox(apart.init(jax.random.key(1), x_btd, **arguments)["params"])
        y_btd, _ = apart.apply({"params": params}, x_btd, **arguments)
        return y_btd, whole.apply({"params": traverse_util.unflatten_dict(flat(params))}, x_btd, **arguments)[0]

    np.testing.assert_allclose(*both(), rtol=1e-5, atol=1e-6)


def test_attention_behind_a_convolution_decodes_what_it_trains():
    mixer, positions = Convolved(nn.Attention(heads=1)), jnp.arange(5)[None]
    x_btd = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 8)), jnp.float32)

    @jax.jit
    def both():
        variables = meta.unbox(mixer.init(jax.random.key(1), x_btd, positions=positions, segment_ids=None))
        state, parts = mixer.init_state(1, 5, 8, jnp.float32), []
        for cut in (slice(0, 2), slice(2, 5)):
            part, state = mixer.apply(variables, x_btd[:, cut], positions=positions[:, cut], segment_ids=None, state=state)
            parts.append(part)
        return jnp.concatenate(parts, axis=1), mixer.apply(variables, x_btd, positions=positions, segment_ids=None)[0]

    np.testing.assert_allclose(*both(), rtol=1e-5, atol=1e-6)


def test_a_model_learns_and_is_scored_on_the_answers_alone():
    # One data token, copied to the mark behind it: chance is 1 in 4.
    data = copying(np.random.default_rng(0), 256, 6, 1, 1)
    arm = tuned(bare(nn.RWKV4TimeMix(), 6, 16, 1), data, data, 60, 16, (1e-6, 3e-2), (0, 1))
    assert arm["rate"] == 3e-2 and arm["mean"] > 0.95 and arm["tried"]["1e-06"] < 0.8
