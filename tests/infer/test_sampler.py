"""Samplers against the laws that they promise; generation's edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm.infer import Sampler, generate, pad_prompts
from tests.tiny import init, model

LOGITS = jnp.log(jnp.array([[0.4, 0.05, 0.3, 0.15, 0.1]]))


@pytest.mark.parametrize(
    "sampler,law",
    [
        (Sampler(), [0.4, 0.05, 0.3, 0.15, 0.1]),
        (Sampler(temperature=0.5), np.square([0.4, 0.05, 0.3, 0.15, 0.1]) / 0.285),
        (Sampler(top_k=2), [4 / 7, 0, 3 / 7, 0, 0]),
        (Sampler(top_p=0.75), [0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85, 0]),
        (Sampler(top_p=0.7), [4 / 7, 0, 3 / 7, 0, 0]),
        (Sampler(top_k=3, top_p=0.5), [4 / 7, 0, 3 / 7, 0, 0]),
        (Sampler(temperature=0.0), [1, 0, 0, 0, 0]),
    ],
    ids=repr,
)
def test_the_law_and_its_draws(sampler, law):
    np.testing.assert_allclose(jax.nn.softmax(sampler.logits(LOGITS))[0], law, atol=1e-6)
    draws = jax.vmap(lambda k: sampler(k, LOGITS)[0])(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(np.bincount(draws, minlength=5) / 4000, law, atol=0.03)


@pytest.mark.parametrize("sampler,kept", [(Sampler(top_k=2), 2), (Sampler(top_p=0.5), 3), (Sampler(top_p=0.1), 1), (Sampler(top_k=4, top_p=0.5), 2)], ids=repr)
def test_ties_do_not_widen_what_is_kept(sampler, kept):
    """The `top_k` likeliest tokens are so many, and the smallest set is the smallest, of equally likely ones too."""
    np.testing.assert_array_equal(np.isfinite(sampler.logits(jnp.zeros((2, 5)))).sum(-1), [kept, kept])


@pytest.mark.parametrize("temperature", [-1.0, np.nan, np.inf])
def test_a_temperature_that_is_no_number_is_refused(temperature):
    with pytest.raises(ValueError, match="must be finite and not negative"):
        Sampler(temperature=temperature)


def test_a_row_stops_at_its_end_token():
    decoder = model(depth=2)
    tokens, lengths = pad_prompts([[3, 4], [5]])
    params = init(decoder, tokens)
    free, _ = generate(decoder, params, tokens, lengths, jax.random.key(0), tokens=8, sampler=Sampler(temperature=0.0))
    end = int(free[0, 2])
    first = int(np.flatnonzero(np.asarray(free[0]) == end)[0])
    stopped, counts = generate(decoder, params, tokens, lengths, jax.random.key(0), tokens=8, sampler=Sampler(temperature=0.0), end=end)
    assert int(counts[0]) == first + 1
    np.testing.assert_array_equal(stopped[0], [*free[0, : first + 1], *[end] * (7 - first)])


def test_the_same_key_draws_the_same_tokens_and_no_row_sees_another():
    decoder = model(depth=2)
    params = init(decoder, jnp.zeros((1, 4), jnp.int32))
    tokens, lengths = pad_prompts([[3, 4, 9, 9], [5]])

    def draw(seed, tokens, lengths):
        return np.asarray(generate(decoder, params, tokens, lengths, jax.random.key(seed), tokens=9)[0])

    np.testing.assert_array_equal(draw(1, tokens, lengths), draw(1, tokens, lengths))
    assert (draw(1, tokens, lengths) != draw(2, tokens, lengths)).any()
    other = tokens.copy()
    other[1, 0] = 6
    np.testing.assert_array_equal(draw(1, tokens, lengths)[0], draw(1, other, lengths)[0])


@pytest.mark.parametrize("more,words", [({"tokens": 0}, "tokens=0"), ({"tokens": 3, "end": 64}, "end=64 lies outside the vocabulary of 64")])
def test_what_cannot_be_generated_is_refused(more, words):
    with pytest.raises(ValueError, match=words):
        generate(model(depth=2), None, *pad_prompts([[1]]), jax.random.key(0), **more)


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        pad_prompts([[1], []])
