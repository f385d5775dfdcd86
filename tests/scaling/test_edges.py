"""Inputs at the edge: each gives the right answer or one clear line, never a plausible wrong one."""

import json

import jax
import numpy as np
import pytest

from effllm import scaling
from effllm.scaling import Chinchilla, Runs, fit


def test_a_score_that_never_changes_has_no_trend():
    x = np.geomspace(1, 100, 8)
    assert scaling.trend(x, np.full(8, 0.25)).verdict == "no trend"
    with pytest.raises(ValueError, match="finite scores"):
        scaling.trend(x, np.where(np.arange(8) == 3, np.nan, x))
    with pytest.raises(ValueError, match="2 scales do not make a trend"):
        scaling.trend(np.repeat([1.0, 2.0], 4), np.arange(8))


@pytest.mark.parametrize("change,words", [
    (dict(accuracy=np.full(8, np.nan)), "accuracy must lie in 0…1"), (dict(questions=0), "questions ≥ 1"), (dict(chance=1.0), "chance < 1"),
])  # fmt: skip
def test_emergence_gives_no_verdict_on_nothing(change, words):
    x = np.geomspace(1e7, 1e10, 8)
    given = dict(x=x, loss=1.8 + 40 * x**-0.2, accuracy=np.linspace(0, 0.5, 8), questions=100, chance=0.0)
    with pytest.raises(ValueError, match=words):
        scaling.emergence(**given | change)


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    params, tokens = 10 ** rng.uniform(7.5, 10, 60), 10 ** rng.uniform(9, 11, 60)
    return Runs({"params": params, "tokens": tokens, "loss": Chinchilla()(params, tokens) * np.exp(0.005 * rng.standard_normal(60))})


HELD = {"A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3659}


def test_runs_without_weight_do_not_widen_an_interval(runs):
    weights = np.where(np.arange(60) < 25, 0.0, 1.0)
    wild = runs.with_column("loss", np.where(weights > 0, 1, 3) * runs["loss"])
    all_of_them, few = fit(Chinchilla, wild, weights=weights), fit(Chinchilla, runs.where(weights > 0))
    assert scaling.covariance(all_of_them) == pytest.approx(scaling.covariance(few), rel=1e-3)


@pytest.mark.parametrize("interval", [scaling.laplace, scaling.bootstrap])
def test_as_many_runs_as_parameters_have_no_interval(runs, interval):
    """Every resample would be met exactly, at the same parameters: an interval of no width."""
    exact = fit(Chinchilla, runs.where(np.arange(5)))
    with pytest.raises(ValueError, match="5 runs fix the 5 free parameters of Chinchilla without a remainder"):
        interval(exact)


def test_a_profile_of_coarse_values_is_that_of_fine_ones(runs):
    found = fit(Chinchilla, runs)
    coarse, fine = scaling.profile(found, "alpha", [0.1, 0.6, 0.9]), scaling.profile(found, "alpha", np.linspace(0.3, 0.4, 21))
    assert coarse.identified and [coarse.low, coarse.high] == pytest.approx([fine.low, fine.high], abs=1e-3)
    with pytest.raises(ValueError, match="values of A to profile must be finite and above zero"):
        scaling.profile(found, "A", [0.0, 400.0])


def test_the_only_free_parameter_has_a_profile(runs):
    found = fit(Chinchilla, runs, fixed=HELD)
    curve = scaling.profile(found, "E", np.linspace(1.8, 1.84, 9))
    assert curve.low < found.params["E"] < curve.high


@pytest.mark.parametrize("given,words", [
    (dict(fixed=HELD | {"E": 1.8}), "every parameter of Chinchilla is fixed"), (dict(fixed={"A": -1.0}), "A cannot be fixed at -1: it must be finite and not negative"),
    (dict(fixed={"alpha": np.nan}), "alpha cannot be fixed at nan"), (dict(weights=np.ones(7)), "for each of the 60 runs"),
    (dict(weights=np.where(np.arange(60) == 3, np.nan, 1.0)), "weights must be"), (dict(weights=np.where(np.arange(60) == 3, -1.0, 1.0)), "at least zero"),
])  # fmt: skip
def test_what_a_fit_is_given_is_looked_at(runs, given, words):
    with pytest.raises(ValueError, match=words):
        fit(Chinchilla, runs, **given)


def test_laplace_covers_with_few_runs_too():
    """Twenty-four studies of 12 runs × 5 parameters; residuals that a robust fit passes through had made half of these intervals too short."""
    truth, hits = Chinchilla(), []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        params, tokens = 10 ** rng.uniform(7, 10.5, 12), 10 ** rng.uniform(8, 11.5, 12)
        found = scaling.laplace(fit(Chinchilla, Runs({"params": params, "tokens": tokens, "loss": truth(params, tokens) * np.exp(0.005 * rng.standard_normal(12))})))
        hits += [found[name].low <= value <= found[name].high for name, value in truth.values().items()]
    assert 0.88 <= np.mean(hits) <= 1


def test_an_interval_across_zero_identifies_nothing(runs):
    draws = scaling.bootstrap(fit(Chinchilla, runs, fixed=HELD), 2)
    ends = {(-0.1, 0.4): False, (-5.0, -0.1): False, (0.0, 0.2): False, (-0.3, -0.1): True, (0.1, 0.3): True, (1.0, np.inf): False}
    assert {e: draws.interval(np.array(e), 1.0).identified for e in ends} == ends


def test_two_near_sizes_at_the_end_are_no_bracket():
    """Losses that only rise: the mean of two merged sizes lies inside of the sizes, and was taken for a minimum."""
    for sizes, sign in (((1e8, 1.03e8, 2e8, 4e8), 1), ((1e8, 2e8, 4e8, 4.1e8), -1)):
        rows = [(n, c / (6 * n), c, 3 + sign * 0.1 * i) for c in (1e19, 1e20, 1e21) for i, n in enumerate(sizes)]
        with pytest.raises(ValueError, match="only 0 of 3 FLOP budgets .*not between"):
            scaling.isoflop(Runs(dict(zip(("params", "tokens", "flops", "loss"), np.array(rows).T, strict=True))))


@pytest.mark.parametrize("given", [dict(budgets=[0.0, 1e20]), dict(budgets=[np.nan]), dict(apart=0.5)])
def test_budgets_that_cannot_be(runs, given):
    with pytest.raises(ValueError, match="budgets .* must be"):
        scaling.isoflop(runs, **given)


def test_a_column_without_a_logarithm_is_named():
    with pytest.raises(ValueError, match="column 'x' is zero or negative in 1 of them \\(row 1\\)"):
        fit(scaling.PowerLaw, Runs({"x": np.arange(6.0), "loss": np.array([5, 4, 3, 2.5, 2.2, 2.1])}))
    rates = Runs({"loss": np.linspace(2, 4, 8), "error": np.array([0, 0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5])})
    with pytest.raises(ValueError, match="column 'error' .* an objective without logarithms"):
        fit(scaling.Downstream, rates)
    assert fit(scaling.Downstream, rates, loss=scaling.Squares()).converged


@pytest.mark.parametrize("content,words", [
    ("params,tokens,loss\n1e8,1e9,3.0\n2e8,1,000,2.9\n".encode(), "more cells than its header in row 2"),
    ("größe,params,tokens,loss\n1,1e8,1e9,3\n".encode("latin-1"), "not in UTF-8"), ("params,tokens,loss\n1e8,1e9,3\n".encode("utf-16"), "not in UTF-8"),
])  # fmt: skip
def test_a_file_that_is_no_table(tmp_path, content, words):
    (tmp_path / "runs.csv").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        scaling.read_csv(tmp_path / "runs.csv")


def test_a_column_beside_the_loss_may_be_zero(tmp_path):
    (tmp_path / "runs.csv").write_text("params,tokens,loss,loss_std\n1e8,1e9,3.0,0\n2e8,1e9,2.9,0.01\n")
    assert scaling.read_csv(tmp_path / "runs.csv")["loss_std"].tolist() == [0, 0.01]


def test_directories_of_the_same_name_are_different_runs(tmp_path):
    folders = [tmp_path / seed / "small" for seed in ("seed0", "seed1")]
    for i, folder in enumerate(folders):
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"cost": {"parameters": 1000 * (i + 1), "training_flops": 6000.0}}))
        (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0, "tokens": 100}\n{"step": 2, "loss": 2.9, "tokens": 100}\n')
        (folder / "result.json").write_text('{"held_out": {"loss": 2.9}}')
    assert len(set(scaling.read_directories(folders, curves=True).names)) == 2
    with pytest.raises(ValueError, match="given twice"):
        scaling.read_directories([folders[0], folders[0]])


def test_isoflop_reads_tokens_from_the_runs():
    """FLOPs of 9·N·D, as attention adds at small widths: C/6N would be half as many tokens again as were trained on."""
    rows = [(n, c / (9 * n), c) for c in np.geomspace(1e18, 1e20, 4) for n in 0.09 * (c / 6) ** 0.513 * np.geomspace(0.15, 6, 8)]
    params, tokens, flops = np.array(rows).T
    found = scaling.isoflop(Runs({"params": params, "tokens": tokens, "flops": flops, "loss": Chinchilla()(params, tokens)}))
    assert 9 * found.params_c * found.tokens_c == pytest.approx(found.compute_c, rel=1e-6)
    without = scaling.isoflop(Runs({"params": params, "flops": flops, "loss": Chinchilla()(params, tokens)}))
    assert 6 * without.params_c * without.tokens_c == pytest.approx(without.compute_c)


def test_one_cluster_has_no_interval(runs):
    """Each resample would be the runs themselves."""
    with pytest.raises(ValueError, match="all 60 runs have the one name 'a'"):
        scaling.bootstrap(fit(Chinchilla, Runs(runs.columns, ("a",) * 60)), 10, cluster=True)


def test_a_compiled_function_is_a_law_too(runs):
    @jax.jit
    def own(params, tokens, floor, a):
        return floor + a * params**-0.3 + 1000 * tokens**-0.3

    assert fit(own, runs, starts={"floor": (1.8, 2.0), "a": (100.0, 300.0)}).converged


def own_law(params, tokens, floor, a, b):
    return floor + a * params**-0.35 + b * tokens**-0.37


def test_a_users_function_can_be_held_out_and_compared(runs):
    starts = {"floor": (1.5, 2.0), "a": (100.0, 1000.0), "b": (1000.0,)}
    assert scaling.holdout(own_law, runs, 6, starts=starts).mean_error < 0.02
    halves = {"one": runs.where(np.arange(60) % 2 == 0), "other": runs.where(np.arange(60) % 2 == 1)}
    assert scaling.compare(own_law, halves, starts=starts, draws=8).p_value > 0.001


def test_a_design_of_no_runs_is_refused(runs):
    with pytest.raises(ValueError, match="a design of 0 runs launches nothing"):
        scaling.design(fit(Chinchilla, runs), 1e20, scaling.candidates(1e20, np.array([1e8]), np.array([20.0])), 0)


def test_two_sizes_under_one_name_are_no_curve():
    """The envelope would give both the size of the first."""
    params, tokens = np.repeat([1e7, 1e9, 1e8], 5), np.tile(np.geomspace(1e9, 1e10, 5), 3)
    mixed = Runs({"params": params, "tokens": tokens, "loss": Chinchilla()(params, tokens)}, ("a",) * 10 + ("b",) * 5)
    with pytest.raises(ValueError, match="the curve 'a' has models of 1e\\+07 to 1e\\+09 parameters"):
        scaling.envelope(mixed)


def test_the_same_runs_without_noise_are_one_law(runs):
    """What is left of both fits is rounding, whose ratio says nothing."""
    clean = runs.with_column("loss", Chinchilla()(runs["params"], runs["tokens"]))
    assert scaling.compare(Chinchilla, {"a": clean, "b": clean.where(np.arange(60) % 2 == 0)}, draws=1).p_value > 0.9


def test_runs_without_columns():
    with pytest.raises(ValueError, match="at least one column"):
        Runs({})
