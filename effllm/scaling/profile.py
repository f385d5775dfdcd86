"""Profile likelihood: how well the law can still do with one parameter held at each of many values."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from effllm.scaling.fit import Fit
from effllm.scaling.solver import minimise


@dataclass(frozen=True)
class Profile:
    """objective_g: the least objective with `name` at each value_g. threshold: the objective up to which values lie in the interval at `level`.

    low, high: where the profile crosses it, None where it does not within the values tried: the runs do not bound the parameter on that side.
    """

    name: str
    value_g: np.ndarray
    objective_g: np.ndarray
    threshold: float
    level: float
    low: float | None
    high: float | None

    @property
    def identified(self) -> bool:
        """Whether the interval closes on both sides."""
        return self.low is not None and self.high is not None


def profile(fit: Fit, name: str, values: np.ndarray, level: float = 0.95) -> Profile:
    """Refit all other parameters at each of the values, from every distinct minimum of the fit and from the solutions at the neighbouring values.

    With the scale σ of the residuals profiled out, −2 ln likelihood is n·ln(objective) + const: exact for squares, an approximation for Huber.
    So threshold = minimum·exp(χ²₁(level)/n). The fit itself is one more point of the curve, so coarse values err in the ends, not in whether there are any.
    Raises ValueError for a parameter that is not free and for values that it cannot take.
    """
    form = fit.form
    position = form.names.index(name) if name in form.names else -1
    if position not in fit.free:
        raise ValueError(f"{name} is no free parameter of {form.label}: profile one of {', '.join(form.names[i] for i in fit.free)}")
    value_g = np.sort(np.atleast_1d(np.asarray(values, float)))
    if not np.isfinite(value_g).all() or (name in form.positive and value_g[0] <= 0):
        raise ValueError(f"values of {name} to profile must be finite{' and above zero' if name in form.positive else ''}")
    free = tuple(i for i in fit.free if i != position)
    columns, objective_g = [fit.runs[n] for n in form.inputs], np.full(len(value_g), np.inf)
    theta_gp = np.tile(fit.theta_p, (len(value_g), 1))

    def solve(start_gp, held_g):
        start_gp[:, position] = np.log(held_g) if name in form.positive else held_g
        solved = minimise(form, fit.loss, columns, fit.runs[form.target], start_gp, fit.weights_n[None], free)
        return solved.theta_bp, solved.objective_b

    def improve(start_gp):
        found_gp, found_g = solve(start_gp, value_g)
        lower = found_g < objective_g
        theta_gp[lower], objective_g[lower] = found_gp[lower], found_g[lower]

    for _, start in fit.minima:
        improve(np.tile(form.theta(start), (len(value_g), 1)))
    for shift in (1, -1, 1, -1):
        improve(np.roll(theta_gp, shift, axis=0))
    lowest = min(fit.objective, objective_g.min())
    threshold = lowest * np.exp(chi2.ppf(level, 1) / fit.weights_n.sum())
    x, y, theta = (np.concatenate(pair) for pair in (([fit.params[name]], value_g), ([fit.objective], objective_g), ([fit.theta_p], theta_gp)))
    order = np.argsort(x, kind="stable")
    x, y, theta = x[order], y[order], theta[order]
    inside = np.flatnonzero(y <= threshold)
    ends = [None if left in (-1, len(x) - 1) else crossing(solve, x, y, theta, threshold, left) for left in (inside[0] - 1, inside[-1])]
    return Profile(name, value_g, objective_g, float(threshold), level, *ends)


def crossing(solve, value_g: np.ndarray, objective_g: np.ndarray, theta_gp: np.ndarray, threshold: float, left: int, points: int = 15) -> float:
    """Where the profile meets the threshold between points `left` and `left`+1: a straight line between two of `points` more values, as a chord over a
    coarse step lies above the curve and so makes the interval too short. solve: (starts (points, p), values) to (θ, objectives)."""
    ends = slice(left, left + 2)
    between = np.linspace(*value_g[ends], points + 2)
    found = [solve(np.tile(start, (points, 1)), between[1:-1])[1] for start in theta_gp[ends]]
    y = np.concatenate([objective_g[left : left + 1], np.minimum(*found), objective_g[left + 1 : left + 2]])
    i = int(np.flatnonzero((y[:-1] <= threshold) != (y[1:] <= threshold))[0])
    share = (threshold - y[i]) / (y[i + 1] - y[i]) if np.isfinite(y[i : i + 2]).all() else float(y[i] > threshold)
    return float(between[i] + share * (between[i + 1] - between[i]))
