"""Rotary positions and what stretches them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import nn, ops

PLAIN = nn.RoPEScaling().frequencies(10000.0, 64)
SCALINGS = [getattr(nn, n) for n in nn.__all__ if isinstance(getattr(nn, n), type) and issubclass(getattr(nn, n), nn.RoPEScaling)]


def test_interleaved_pairs_are_half_pairs_after_a_permutation():
    x = jax.random.normal(jax.random.key(0), (1, 5, 2, 8))
    positions, frequencies = jnp.array([[0, 1, 7, 30, 90]]), jnp.array([1.0, 0.3, 0.02])
    order = np.array([0, 2, 4, 1, 3, 5, 6, 7])  # even channels of the turning six, then odd ones
    interleaved = ops.rotary(x, positions, frequencies, interleaved=True)
    np.testing.assert_allclose(interleaved[..., order], ops.rotary(x[..., order], positions, frequencies), atol=1e-6)


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s.__name__)
def test_scores_depend_on_distance_alone(scaling):
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))

    def score(i, j):
        position = nn.RoPE(100.0, scaling=scaling())
        a, _ = position.rotate(q, q, jnp.array([[i]]))
        b, _ = position.rotate(k, k, jnp.array([[j]]))
        return float(jnp.vdot(a, b))

    assert score(3, 1) == pytest.approx(score(42, 40), abs=1e-4) != pytest.approx(score(4, 1), abs=1e-3)


@pytest.mark.parametrize("scaling", [nn.NTKAware(8.0), nn.YaRN(8.0, trained_length=128), nn.Llama3Scaling(8.0, trained_length=128)], ids=lambda s: type(s).__name__)
def test_high_frequencies_stay_and_low_ones_fall_by_the_factor(scaling):
    ratio = PLAIN / scaling.frequencies(10000.0, 64)
    assert ratio[0] == pytest.approx(1) and ratio[-1] == pytest.approx(8) and (np.diff(ratio) > -1e-9).all()


def test_interpolation_and_longrope_divide():
    np.testing.assert_allclose(nn.PositionInterpolation(4.0).frequencies(10000.0, 64), PLAIN / 4)
    factors = tuple(np.linspace(1, 8, 32))
    np.testing.assert_allclose(nn.LongRoPE(factors, 8.0, 4096).frequencies(10000.0, 64), PLAIN / factors)
    assert nn.LongRoPE(factors, 8.0, 4096).attention_factor == pytest.approx(1.25**0.5)
    assert nn.YaRN(1.0).attention_factor == 1 and nn.YaRN(np.e).attention_factor == pytest.approx(1.1)


def test_the_attention_factor_multiplies_what_turns_only():
    x = jnp.ones((1, 1, 1, 8))
    q, k = nn.RoPE(fraction=0.5, scaling=nn.LongRoPE((1.0,), 16.0, 256)).rotate(x, 2 * x, jnp.zeros((1, 1), jnp.int32))
    np.testing.assert_allclose(q[0, 0, 0], [1.5**0.5] * 4 + [1] * 4, rtol=1e-6)
    np.testing.assert_allclose(k, 2 * q, rtol=1e-6)


@pytest.mark.parametrize(
    "build,words",
    [
        (lambda: nn.PositionInterpolation(0.0), "factor=0.0 must be positive"),
        (lambda: nn.YaRN(trained_length=0), "YaRN: trained_length=0 must be positive"),
        (lambda: nn.Llama3Scaling(low=4.0, high=4.0), "high=4.0 must be above low=4.0"),
        (lambda: nn.LongRoPE(()), "LongRoPE: factors=0"),
        (lambda: nn.LongRoPE((1.0, 2.0)).frequencies(1e4, 64), "2 factors for 32 turning pairs"),
        (lambda: nn.NTKAware().frequencies(1e4, 2), "at least 4 turning channels"),
    ],
)
def test_scalings_that_cannot_be(build, words):
    with pytest.raises(ValueError, match=words):
        build()
