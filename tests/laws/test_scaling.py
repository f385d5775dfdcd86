"""The scaling laws' law: planted parameters are recovered, intervals cover as they say, a fit that did not converge says so."""

import dataclasses

import numpy as np
import pytest

from effllm.scaling import Chinchilla, LogSquares, Runs, bootstrap, fit, laplace, laws, profile, solver

SUBJECTS = [getattr(laws, name) for name in laws.__all__]
# Of laws whose papers give no numbers to take as defaults: of the size that they have there.
PLANTED = {
    "Broken": dict(a=1.5, b=30.0, c0=0.1, c1=0.2, d1=1e8, f1=0.3),
    "Distillation": dict(c0=1.0, c1=2.0, d1=1.1, f1=0.2, A=1000.0, B=2000.0, alpha=0.35, beta=0.35, gamma=0.8),
    "Downstream": dict(epsilon=0.75, k=1.5, gamma=0.7),
    "Henighan": dict(L_inf=1.8, x_0=1e8, alpha=0.2),
    "OverTraining": dict(E=1.7, a=400.0, b=300.0, eta=0.16),
    "PostTraining": dict(C_T=0.05, gamma_D=0.5, gamma_N=0.4, gamma=0.6),
    "PowerLaw": dict(E=1.8, A=40.0, alpha=0.2),
    "Precision": dict(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.36, gamma=2.5),
    "PrecisionOfEach": dict(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.36, gamma_w=2.5, gamma_a=2.0, gamma_kv=1.0),
    "Pruned": dict(E=0.1, A=5.0, nu=0.3, x_0=1e6),
    "Routed": dict(a=-0.08, b=-0.11, c=0.009, d=1.1, E_start=1.8, E_max=314.0),
    "Sigmoidal": dict(eps_inf=1.5, eps_0=9.0, alpha=0.6, beta=300.0, c=0.3),
    "TwiceBroken": dict(a=0.5, b=30.0, c0=0.05, c1=0.3, d1=1e6, f1=0.3, c2=-0.2, d2=1e10, f2=0.3),
}  # fmt: skip


def planted(cls):
    """The law to be found again."""
    return cls(**PLANTED[cls.__name__]) if cls.__name__ in PLANTED else cls()


def columns(cls, count, seed=0):
    """Random values of every column that a law takes."""
    rng = np.random.default_rng(seed)
    tokens = 10 ** rng.uniform(8, 11.5, count)
    known = {
        "params": 10 ** rng.uniform(7, 10.5, count), "tokens": tokens, "unique_tokens": tokens / rng.choice([1.0, 2, 8, 40, 200], count),
        "experts": rng.choice([1.0, 2, 4, 8, 32, 128, 512], count), "granularity": rng.choice([1.0, 2, 4, 8, 16], count),
        "bits": rng.choice([2.0, 3, 4, 6, 8, 16], count), "bits_w": rng.choice([3.0, 4, 6, 8], count), "bits_a": rng.choice([3.0, 4, 6, 8], count),
        "bits_kv": rng.choice([2.0, 3, 4, 8], count), "loss": rng.uniform(1.8, 4, count), "flops": 10 ** rng.uniform(17, 22, count),
        "x": 10 ** (rng.uniform(3, 7.5, count) if cls is laws.Pruned else rng.uniform(4, 12, count)),
        "fine_tuning_tokens": 10 ** rng.uniform(5, 9, count), "teacher_loss": rng.uniform(2, 3, count), "supervised_loss": rng.uniform(2, 3.5, count),
    }  # fmt: skip
    return {name: known[name] for name in cls.inputs}


@pytest.mark.parametrize("cls", SUBJECTS, ids=lambda c: c.__name__)
def test_planted_parameters_are_recovered(cls):
    law, given = planted(cls), columns(cls, 64)
    found = fit(cls, Runs({**given, cls.target: law(*given.values())}), loss=LogSquares())
    assert found.converged and found.n_starts_at_best >= 2
    values = law.values()
    if cls is laws.TwiceBroken and found.params["d1"] > found.params["d2"]:  # the breaks have no order
        values = {{"c1": "c2", "c2": "c1", "d1": "d2", "d2": "d1", "f1": "f2", "f2": "f1"}.get(n, n): v for n, v in values.items()}
    assert found.params == pytest.approx(values, rel=1e-7)


@pytest.fixture(scope="module")
def studies():
    """Forty synthetic studies of 60 runs with half a percent of noise: fits and their bootstraps."""
    law, rng, found = Chinchilla(), np.random.default_rng(0), []
    for seed in range(40):
        given = columns(Chinchilla, 60, seed)
        loss = law(*given.values()) * np.exp(0.005 * rng.standard_normal(60))
        fitted = fit(Chinchilla, Runs({**given, "loss": loss}))
        found.append((fitted, bootstrap(fitted, 100, seed)))
    return found


def covered(intervals):
    truth = Chinchilla().values()
    return np.array([[i[n].low <= truth[n] <= i[n].high for n in truth] for i in intervals])


def test_intervals_have_their_nominal_coverage(studies):
    """40 studies × 5 parameters, which move together: 95 % ± 7 % is two standard errors of 40."""
    assert 0.88 <= covered([draws.intervals() for _, draws in studies]).mean() <= 0.999
    assert 0.40 <= covered([draws.intervals(0.5) for _, draws in studies]).mean() <= 0.66
    assert 0.85 <= covered([laplace(fitted) for fitted, _ in studies]).mean() <= 0.995
    assert all(fitted.converged and draws.converged == 1 for fitted, draws in studies)


def test_the_profile_covers_too(studies):
    found = [profile(fitted, "alpha", np.linspace(0.2, 0.5, 31)) for fitted, _ in studies[:12]]
    assert all(p.identified for p in found)
    assert 0.74 <= np.mean([p.low <= Chinchilla().alpha <= p.high for p in found]) <= 1


def test_a_fit_that_did_not_converge_says_so(monkeypatch):
    given = columns(Chinchilla, 60)
    runs = Runs({**given, "loss": Chinchilla()(*given.values()) * np.exp(0.01 * np.random.default_rng(0).standard_normal(60))})
    monkeypatch.setattr(solver, "LIMIT", 1)
    monkeypatch.setattr(solver, "ROUND", 1)
    found = fit(Chinchilla, runs)
    assert not found.converged and "did not converge" in found.warnings[0] and found.to_json()["converged"] is False
    monkeypatch.undo()
    again = fit(Chinchilla, runs)
    assert again.converged and not again.warnings and again.objective < found.objective


def test_every_law_is_a_frozen_dataclass_with_a_formula():
    for cls in SUBJECTS:
        assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen, cls
        assert "=" in cls.__doc__ and set(cls.positive) | set(cls.linear) | set(cls.starts) <= {f.name for f in dataclasses.fields(cls)}, cls
