"""Formulas against values worked out another way, and as JAX functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from effllm import scaling
from effllm.scaling import laws
from tests.laws.test_scaling import SUBJECTS, columns, planted


@pytest.mark.parametrize("cls", SUBJECTS, ids=lambda c: c.__name__)
def test_jax_and_numpy_agree_and_gradients_are_those_of_differences(cls):
    law, given = planted(cls), columns(cls, 5)
    values = np.asarray(law(*given.values()))
    assert values.dtype == np.float64 and np.isfinite(values).all()
    names = list(law.values())
    with scaling.float64():
        arrays = [jnp.asarray(v) for v in given.values()]
        theta = jnp.asarray(list(law.values().values()), float)
        f = jax.jit(lambda t: jnp.sum(jnp.log(cls(*(t[i] for i in range(len(names))))(*arrays))))
        assert np.allclose(jax.jit(lambda t: cls(*(t[i] for i in range(len(names))))(*arrays))(theta), values, rtol=1e-10)
        gradient = np.asarray(jax.grad(f)(theta))
        for i, name in enumerate(names):
            h = 1e-5 * max(abs(float(theta[i])), 1e-3)
            slope = float(f(theta.at[i].add(h)) - f(theta.at[i].add(-h))) / (2 * h)
            assert gradient[i] == pytest.approx(slope, rel=2e-4, abs=1e-9 / h), name


def test_parameters_broadcast():
    law = laws.Chinchilla(E=np.array([[1.0], [2.0]]))
    assert law(np.array([1e8, 1e9, 1e10]), 1e10).shape == (2, 3)
    assert isinstance(float(laws.Chinchilla()(10**9, 2 * 10**10)), float)


def test_published_numbers():
    assert laws.Chinchilla(1.69, 406.4, 410.7, 0.34, 0.28)(70e9, 1.4e12) == pytest.approx(1.69 + 406.4 / 4872.0 + 410.7 / 2517.0, abs=5e-4)  # by hand, Chinchilla itself
    few, many = laws.DataConstrained(), laws.Chinchilla(1.869143, 520.8223, 1487.718, 0.3526596, 0.3526596)
    assert few(2.8e9, 55e9, 55e9) == pytest.approx(many(2.8e9, 55e9), rel=1e-12)
    endless = laws.DataConstrained(R_D=1e14, R_N=1e14)  # without cancellation: the limit is Chinchilla
    assert endless(2.8e9, 55e9, 5e9) == pytest.approx(many(2.8e9, 55e9), rel=1e-12)
    assert few(2.8e9, 55e9, 55e9 / 4) < 1.01 * many(2.8e9, 55e9)  # four epochs are nearly as good as new data
    assert few(2.8e9, 55e9, 55e9 / 44) > 1.05 * many(2.8e9, 55e9)


def test_data_constrained_optimum_is_that_of_its_chinchilla_law():
    law = laws.DataConstrained()
    budget = 6 * float(law.optimal_params(2e10)) * 2e10
    plan = scaling.optimal(laws.Chinchilla(law.E, law.A, law.B, law.alpha, law.beta), budget)
    assert plan.tokens[0] == pytest.approx(2e10, rel=1e-6)


def test_over_training_is_chinchilla_with_equal_exponents():
    law = laws.OverTraining(E=1.7, a=400.0, b=300.0, eta=0.16)
    same = laws.Chinchilla(1.7, 400 * 6**-0.16, 300 * 6**-0.16, 0.32, 0.32)
    assert law(3e8, 7e10) == pytest.approx(same(3e8, 7e10), rel=1e-12)


def test_routed_saturates_and_its_effective_size_is_a_dense_model_of_the_same_loss():
    law = planted(laws.Routed)
    assert law.saturated(1.0) == pytest.approx(law.E_start) and law.saturated(1e9) == pytest.approx(law.E_max, rel=1e-3)
    dense = law.effective_params(1e8, 64.0)
    assert dense > 1e8 and law(dense, 1.0) == pytest.approx(law(1e8, 64.0), rel=1e-12)


def test_the_sigmoidal_law_solves_its_equation():
    law = planted(laws.Sigmoidal)
    for x in (1e2, 1e6, 1e10):
        root = brentq(lambda e: (e - law.eps_inf) / (law.eps_0 - e) ** law.alpha - law.beta * x**-law.c, law.eps_inf + 1e-13, law.eps_0 - 1e-13, xtol=1e-15)
        assert float(law(np.array([x]))[0]) == pytest.approx(root, rel=1e-9)


def test_broken_slopes():
    law = laws.Broken(a=0.0, b=3.0, c0=0.1, c1=0.4, d1=1e8, f1=0.2)
    slope = [np.log(law(x * 1.01) / law(x)) / np.log(1.01) for x in (1e2, 1e16)]
    assert slope == pytest.approx([-0.1, -0.5], abs=1e-4)


def test_critical_batch_trades_steps_for_tokens():
    law = laws.CriticalBatch()
    critical = law(2.5)
    assert law.steps(1e4, critical, 2.5) == pytest.approx(2e4) and law.tokens(1e9, critical, 2.5) == pytest.approx(2e9)
    steps, tokens = law.steps(1e4, 3e5, 2.5) / 1e4, law.tokens(1e9, 3e5, 2.5) / 1e9
    assert (steps - 1) * (tokens - 1) == pytest.approx(1)
