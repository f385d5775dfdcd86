"""How the optimum moves with compute: N* = k C^a by (weighted) regression of logarithms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student


@dataclass(frozen=True)
class Power:
    """y = coefficient·C^exponent; low and high bound the exponent at 95 %."""

    coefficient: float
    exponent: float
    low: float
    high: float

    def __call__(self, compute):
        return self.coefficient * np.asarray(compute, float) ** self.exponent


def regress(compute: np.ndarray, quantity: np.ndarray, weights: np.ndarray | None = None) -> Power:
    """Least squares of ln y on ln C, weighted by 1/σ² where σ of ln y is known. The interval is Student's, from the residuals; infinite for two points."""
    x, y = np.log(compute), np.log(quantity)
    w = np.ones_like(x) if weights is None else np.asarray(weights, float)
    w = w / w.sum()
    mean_x, mean_y = w @ x, w @ y
    spread = w @ (x - mean_x) ** 2
    slope = w @ ((x - mean_x) * (y - mean_y)) / spread
    free = len(x) - 2
    rest = w @ (y - mean_y - slope * (x - mean_x)) ** 2
    half = student.ppf(0.975, free) * np.sqrt(rest / spread / free) if free > 0 else np.inf
    return Power(float(np.exp(mean_y - slope * mean_x)), float(slope), float(slope - half), float(slope + half))


def groups_of(compute: np.ndarray, apart: float = 1.1, budgets: Sequence[float] | None = None) -> list[np.ndarray]:
    """Indices of runs of the same budget: those within the factor `apart` of each of `budgets`, or, without them, sorted budgets cut wherever one
    exceeds the one before by that factor. Raises ValueError for a factor below one and for budgets that are none."""
    if not apart >= 1:
        raise ValueError(f"budgets {apart:g}-fold apart: the factor must be at least 1")
    if budgets is not None:
        if not all(0 < c < np.inf for c in budgets):
            raise ValueError(f"budgets {', '.join(f'{c:g}' for c in budgets)} must be positive numbers of FLOPs")
        near = [np.flatnonzero(np.abs(np.log(compute / c)) <= np.log(apart)) for c in budgets]
        return [rows for rows in near if len(rows)]
    order = np.argsort(compute, kind="stable")
    cuts = np.flatnonzero(compute[order][1:] / compute[order][:-1] > apart) + 1
    return np.split(order, cuts)
