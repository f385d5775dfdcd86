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
    So threshold = minimum·exp(χ²₁(level)/n). Raises ValueError for a parameter that is not free.
    """
    form = fit.form
    position = form.names.index(name) if name in form.names else -1
    if position not in fit.free:
        raise ValueError(f"{name} is no free parameter of {form.label}: profile one of {', '.join(form.names[i] for i in fit.free)}")
    value_g = np.sort(np.asarray(values, float))
    free = tuple(i for i in fit.free if i != position)
    columns, objective_g = [fit.runs[n] for n in form.inputs], np.full(len(value_g), np.inf)
    held_g = np.log(value_g) if name in form.positive else value_g
    theta_gp = np.tile(fit.theta_p, (len(value_g), 1))

    def improve(start_gp):
        start_gp = start_gp.copy()
        start_gp[:, position] = held_g
        solved = minimise(form, fit.loss, columns, fit.runs[form.target], start_gp, fit.weights_n[None], free)
        lower = solved.objective_b < objective_g
        theta_gp[lower], objective_g[lower] = solved.theta_bp[lower], solved.objective_b[lower]

    for _, start in fit.minima:
        improve(np.tile(form.theta(start), (len(value_g), 1)))
    for shift in (1, -1, 1, -1):
        improve(np.roll(theta_gp, shift, axis=0))
    lowest = min(fit.objective, objective_g.min())
    threshold = lowest * np.exp(chi2.ppf(level, 1) / fit.weights_n.sum())
    inside = np.flatnonzero(objective_g <= threshold)
    low = crossing(value_g, objective_g, threshold, inside[0] - 1) if len(inside) and inside[0] > 0 else None
    high = crossing(value_g, objective_g, threshold, inside[-1]) if len(inside) and inside[-1] < len(value_g) - 1 else None
    return Profile(name, value_g, objective_g, float(threshold), level, low, high)


def crossing(value_g: np.ndarray, objective_g: np.ndarray, threshold: float, left: int) -> float:
    """Where the line between points `left` and `left`+1 meets the threshold."""
    (x0, x1), (y0, y1) = value_g[left : left + 2], objective_g[left : left + 2]
    return float(x0 + (threshold - y0) / (y1 - y0) * (x1 - x0))
