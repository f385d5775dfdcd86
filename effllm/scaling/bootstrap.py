"""The bootstrap: refit under resampled runs (Efron 1979), thousands at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from effllm.scaling.fit import Fit
from effllm.scaling.solver import minimise

WIDE = 10.0


@dataclass(frozen=True)
class Interval:
    """low and high bound a quantity at `level`; identified is False where the runs hardly bound it: a factor of ten, or to zero and across."""

    low: float
    high: float
    level: float
    identified: bool = True


def percentiles(values_b: np.ndarray, level: float) -> tuple[float, float]:
    """The ends between which the share `level` of the values lies; NaN counts as beyond both."""
    values_b = np.asarray(values_b, float)
    share, bad = (1 - level) / 2, np.isnan(values_b)
    low, high = (float(np.quantile(np.where(bad, fill, values_b), q, method="inverted_cdf")) for fill, q in ((-np.inf, share), (np.inf, 1 - share)))
    return low, high


def bounded(low: float, high: float) -> bool:
    """Whether two finite ends have one sign and lie within a factor of ten."""
    near, far = sorted((abs(low), abs(high)))
    return bool(low * high > 0 and far <= WIDE * near < np.inf)


@dataclass(frozen=True)
class Draws:
    """Parameters of B refits. law: the law with arrays (B,) as parameters, so that law of a draw axis broadcasts against columns."""

    fit: Fit
    theta_bp: np.ndarray
    objective_b: np.ndarray
    converged_b: np.ndarray

    @property
    def size(self) -> int:
        return len(self.theta_bp)

    @property
    def params(self) -> dict[str, np.ndarray]:
        """{name: (B,)}."""
        return dict(zip(self.fit.form.names, self.fit.form.natural(self.theta_bp), strict=True))

    def law(self, axes: int = 0) -> Any:
        """The law with parameters of shape (B, 1, …): `axes` trailing ones to broadcast against columns."""
        return self.fit.form.build([v.reshape(v.shape + (1,) * axes) for v in self.params.values()])

    @property
    def converged(self) -> float:
        """The share of draws that converged."""
        return float(self.converged_b.mean())

    def interval(self, values_b: np.ndarray, level: float = 0.95) -> Interval:
        """The percentile interval of any function of the draws; NaN draws count as unbounded on both sides."""
        low, high = percentiles(values_b, level)
        return Interval(low, high, level, bounded(low, high))

    def intervals(self, level: float = 0.95) -> dict[str, Interval]:
        """The interval of each free parameter."""
        free = {self.fit.form.names[i] for i in self.fit.free}
        return {n: self.interval(v, level) for n, v in self.params.items() if n in free}

    def unidentified(self, level: float = 0.95) -> list[str]:
        """Parameters whose interval spans more than a factor of ten or reaches zero: no single value should be quoted for them."""
        return [n for n, i in self.intervals(level).items() if not i.identified]


def spare(fit: Fit) -> None:
    """Raise ValueError where the runs are no more than the free parameters: the law then meets each of them, and nothing tells how far off it is."""
    used = int((fit.weights_n > 0).sum())
    if used <= len(fit.free):
        raise ValueError(f"{used} runs fix the {len(fit.free)} free parameters of {fit.form.label} without a remainder, so no interval can be got from "
                         "them: add runs, fix some parameters, or ask for no intervals (bootstrap 0)")  # fmt: skip


def resample(fit: Fit, draws: int, seed: int, cluster: bool) -> np.ndarray:
    """Weights (draws, n): how often each run was drawn, alone or with all runs of its name. Raises ValueError for clusters without names and for one name only."""
    generator = np.random.default_rng(seed)
    n = fit.runs.size
    if not cluster:
        counts = generator.multinomial(n, np.full(n, 1 / n), size=draws)
    else:
        if fit.runs.names is None:
            raise ValueError("a bootstrap by cluster needs names of runs: map a column with --column run=NAME")
        labels = np.unique(np.asarray(fit.runs.names, str), return_inverse=True)[1]
        groups = labels.max() + 1
        if groups < 2:
            raise ValueError(f"all {n} runs have the one name {fit.runs.names[0]!r}: a bootstrap by cluster needs several")
        counts = generator.multinomial(groups, np.full(groups, 1 / groups), size=draws)[:, labels]
    return counts * fit.weights_n


def bootstrap(fit: Fit, draws: int = 1000, seed: int = 0, *, cluster: bool = False, progress: Callable[[int], None] = lambda done: None) -> Draws:
    """Refit under `draws` resamples of the runs, each from every distinct minimum of the fit, of which it keeps the lowest.

    cluster: resample whole groups of runs of the same name (checkpoints of one run, seeds of one configuration) instead of single rows.
    Raises ValueError for no draws, and where the runs are no more than the free parameters.
    """
    if draws < 1:
        raise ValueError(f"a bootstrap of {draws} draws has no interval: ask for at least one")
    spare(fit)
    weights_bn = resample(fit, draws, seed, cluster)
    columns = [fit.runs[n] for n in fit.form.inputs]
    best = None
    for _, start in fit.minima:
        theta_bp = np.broadcast_to(fit.form.theta(start), (draws, len(fit.theta_p)))
        solved = minimise(fit.form, fit.loss, columns, fit.runs[fit.form.target], theta_bp, weights_bn, fit.free, progress=progress)
        if best is None:
            best = solved
            continue
        lower = solved.objective_b < best.objective_b
        for name in ("theta_bp", "objective_b", "converged_b", "iterations_b"):
            getattr(best, name)[lower] = getattr(solved, name)[lower]
    return Draws(fit, best.theta_bp, best.objective_b, best.converged_b)
