"""Fits against SciPy, users' own laws, and what is refused."""

import numpy as np
import pytest
from scipy.optimize import minimize

from effllm import scaling
from effllm.scaling import Chinchilla, Huber, LogHuber, LogSquares, Runs, Squares, fit, laws
from effllm.scaling.law import form_of
from effllm.scaling.laws.hoffmann import GRID
from effllm.scaling.solver import minimise


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(5)
    params, tokens = 10 ** rng.uniform(7.5, 10, 60), 10 ** rng.uniform(9, 11.5, 60)
    loss = Chinchilla()(params, tokens) * np.exp(0.004 * rng.standard_t(3, 60))
    return Runs({"params": params, "tokens": tokens, "loss": loss})


def scipy_objective(theta, loss, runs):
    e, a, b, alpha, beta = theta
    with np.errstate(over="ignore"):
        prediction = np.exp(e) + np.exp(a - alpha * np.log(runs["params"])) + np.exp(b - beta * np.log(runs["tokens"]))
    r = prediction - runs["loss"] if isinstance(loss, Squares) or type(loss) is Huber else np.log(prediction / runs["loss"])
    size = np.abs(r)
    return np.where(size <= loss.delta, r * r / 2, loss.delta * (size - loss.delta / 2)).sum() if hasattr(loss, "delta") else (r * r).sum() / 2


@pytest.mark.parametrize("loss", [LogHuber(), Huber(0.01), Squares(), LogSquares()], ids=lambda x: type(x).__name__)
def test_no_other_optimizer_finds_less(runs, loss):
    found = fit(Chinchilla, runs, loss=loss)
    assert found.converged
    at = [np.log(found.params["E"]), np.log(found.params["A"]), np.log(found.params["B"]), found.params["alpha"], found.params["beta"]]
    assert found.objective == pytest.approx(scipy_objective(at, loss, runs), rel=1e-10)
    for start in (at, [0.6, 6.0, 7.5, 0.34, 0.37], [0.5, 5.0, 7.0, 0.3, 0.35]):
        other = minimize(scipy_objective, start, (loss, runs), "Nelder-Mead", options={"maxiter": 20000, "maxfev": 20000, "xatol": 1e-10, "fatol": 1e-16})
        assert found.objective <= other.fun * (1 + 1e-9)


def test_hoffmanns_grid_of_starts_agrees_with_variable_projection(runs):
    thinned = {name: values[::2] for name, values in GRID.items()}
    by_grid, projected = fit(Chinchilla, runs, starts=thinned), fit(Chinchilla, runs)
    assert by_grid.n_starts == 3**5 and by_grid.objective == pytest.approx(projected.objective, rel=1e-9)
    assert by_grid.params == pytest.approx(projected.params, rel=1e-5)


def own_law(params, tokens, floor, a, b, exponent):
    return floor + a * params**-exponent + b * tokens**-exponent


def test_a_users_function_is_a_law(runs):
    starts = {"floor": (1.5, 2.0), "a": (100.0, 1000.0), "b": (1000.0,), "exponent": (0.3, 0.5)}
    found = fit(own_law, runs, starts=starts, loss=LogSquares())
    same = fit(laws.OverTraining, runs, loss=LogSquares())
    assert found.converged and found.objective == pytest.approx(same.objective, rel=1e-9)
    assert found.params["exponent"] == pytest.approx(2 * same.params["eta"], rel=1e-6)
    plan = scaling.optimal(scaling.bootstrap(found, 16).law(1), 1e22)
    assert plan.params.shape == (16,) and np.isfinite(plan.loss).all()


def test_fixed_parameters_do_not_move(runs):
    found = fit(Chinchilla, runs, fixed={"alpha": 0.4})
    assert found.params["alpha"] == 0.4 and found.converged and found.objective > fit(Chinchilla, runs).objective
    assert set(scaling.bootstrap(found, 8).intervals()) == {"E", "A", "B", "beta"}


def test_weights_of_zero_are_runs_left_out(runs):
    weights = np.ones(60)
    weights[:10] = 0
    assert fit(Chinchilla, runs, weights=weights).params == pytest.approx(fit(Chinchilla, runs.where(weights > 0)).params, rel=1e-6)


def test_the_queue_solves_many_as_it_solves_each(runs):
    """More problems than places: whatever joins late or waits long ends where it would alone."""
    form, rng = form_of(Chinchilla), np.random.default_rng(0)
    weights = rng.multinomial(60, np.full(60, 1 / 60), size=23).astype(float)
    theta = np.tile(form.theta(Chinchilla().values()), (23, 1)) + 0.3 * rng.standard_normal((23, 5))
    columns = [runs["params"], runs["tokens"]]
    together = minimise(form, LogHuber(), columns, runs["loss"], theta, weights, chunk=4)
    assert together.converged_b.all()
    for b in (0, 11, 22):
        alone = minimise(form, LogHuber(), columns, runs["loss"], theta[b : b + 1], weights[b : b + 1])
        assert together.objective_b[b] == pytest.approx(alone.objective_b[0], rel=1e-9)


def test_draws_that_cannot_identify_a_parameter_say_so():
    rng = np.random.default_rng(0)
    params, tokens = 10 ** rng.uniform(7.5, 10, 40), 10 ** rng.uniform(9, 11, 40)
    unique = tokens / rng.choice([1.0, 1.2, 1.5], 40)  # hardly any repetition: the decay constants stay unknown
    law = laws.DataConstrained()
    runs = Runs({"params": params, "tokens": tokens, "unique_tokens": unique, "loss": law(params, tokens, unique) * np.exp(0.005 * rng.standard_normal(40))})
    fixed = {n: v for n, v in law.values().items() if n not in ("R_D", "R_N")}
    found = fit(laws.DataConstrained, runs, fixed=fixed)
    assert "R_D" in scaling.bootstrap(found, 24).unidentified()
    assert not scaling.profile(found, "R_D", np.geomspace(3, 300, 4)).identified


def test_a_term_that_the_runs_do_not_have_is_said(runs):
    """Losses that do not depend on size: A goes to zero, and α with it to anywhere."""
    rng = np.random.default_rng(0)
    flat = runs.with_column("loss", (1.8 + 2000.0 * runs["tokens"] ** -0.36) * np.exp(0.002 * rng.standard_normal(60)))
    found, draws = fit(Chinchilla, flat), scaling.bootstrap(fit(Chinchilla, flat), 24)
    assert {"A"} & set(draws.unidentified()) or any("could be anything" in w for w in found.warnings)


def test_clusters_are_drawn_whole(runs):
    named = Runs(runs.columns, tuple(str(i // 6) for i in range(60)))
    found = fit(Chinchilla, named)
    weights = scaling.bootstrap.__globals__["resample"](found, 50, 0, True).reshape(50, 10, 6)
    assert (weights == weights[:, :, :1]).all() and (weights.sum((1, 2)) == 60).all() and weights.std() > 0
    with pytest.raises(ValueError, match="needs names of runs"):
        scaling.bootstrap(fit(Chinchilla, runs), 10, cluster=True)


@pytest.mark.parametrize("make,words", [
    (lambda r: fit(Chinchilla, r.where(np.arange(4))), "4 runs cannot determine the 5 parameters of Chinchilla"),
    (lambda r: fit(Chinchilla, r.with_column("params", 1e8)), "every run has params=1e"),
    (lambda r: fit(laws.Routed, r), "no column 'experts'; they have params, tokens, loss"),
    (lambda r: fit(Chinchilla, r, fixed={"gamma": 1}), "no parameter gamma; it has E, A, B, alpha, beta"),
    (lambda r: fit(own_law, r), "give starts="),
    (lambda r: fit(own_law, r, starts={"slope": (1.0,)}), "starts names slope"),
    (lambda r: fit(Chinchilla, r, starts={"E": (1.0,)}), "starts lacks A, B, alpha, beta"),
    (lambda r: scaling.profile(fit(Chinchilla, r), "gamma", [1.0]), "gamma is no free parameter"),
    (lambda r: r.with_column("loss", np.where(np.arange(60) == 3, -1, 2.0)), "'loss' is zero or negative in 1 of 60 runs (row 4)"),
    (lambda r: r.with_column("tokens", np.where(np.arange(60) == 7, np.nan, 2.0)), "'tokens' is not a number or not finite in 1 of 60 runs (row 8)"),
    (lambda r: Runs({"params": np.ones(3), "loss": np.ones(4)}), "equally long"),
])  # fmt: skip
def test_what_is_refused_in_one_line(runs, make, words):
    with pytest.raises(ValueError) as caught:
        make(runs)
    assert words in str(caught.value) and "\n" not in str(caught.value)
