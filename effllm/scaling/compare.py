"""Does an architecture scale? Laws of several, compared (Tay et al. 2022, arXiv 2207.10551: scaling behaviour differs where single sizes agree)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import chi2

from effllm.scaling.bootstrap import Draws, Interval, bootstrap
from effllm.scaling.conventions import Cost, SixN
from effllm.scaling.fit import Fit, fit
from effllm.scaling.objective import LogHuber, Objective
from effllm.scaling.optimal import optimal
from effllm.scaling.runs import Runs
from effllm.scaling.solver import FLOOR


@dataclass(frozen=True)
class Comparison:
    """fits and draws by architecture. p_value: of one law for all, against one each (likelihood ratio, scale profiled out; approximate for Huber)."""

    fits: dict[str, Fit]
    draws: dict[str, Draws]
    p_value: float

    def loss(self, budget: float, cost: Cost = SixN()) -> dict[str, np.ndarray]:
        """{architecture: (B,) loss of its compute-optimal model at this budget}."""
        return {name: optimal(d.law(1), budget, cost=cost).loss for name, d in self.draws.items()}

    def better(self, one: str, other: str, budget: float, cost: Cost = SixN()) -> float:
        """The share of draws in which `one` has the lower loss at this budget."""
        loss = self.loss(budget, cost)
        return float((loss[one] < loss[other]).mean())

    def difference(self, name: str, one: str, other: str, level: float = 0.95) -> Interval:
        """The interval of a parameter of `one` minus that of `other`: whether they scale differently."""
        a, b = self.draws[one], self.draws[other]
        return a.interval(a.params[name] - b.params[name], level)


def compare(
    law: Any, runs: Mapping[str, Runs], *, loss: Objective = LogHuber(), starts: Mapping[str, Sequence[float]] | None = None, draws: int = 200, seed: int = 0,
) -> Comparison:  # fmt: skip
    """Fit the law (starts as for `fit`) to each architecture's runs and to all together. Raises ValueError for fewer than two architectures."""
    if len(runs) < 2:
        raise ValueError("comparing needs runs of at least two architectures")
    fits = {name: fit(law, r, loss=loss, starts=starts) for name, r in runs.items()}
    form = next(iter(fits.values())).form
    names = dict.fromkeys((*form.inputs, form.target))
    pooled = fit(law, Runs({n: np.concatenate([r[n] for r in runs.values()]) for n in names}), loss=loss, starts=starts)
    apart, count = sum(f.objective for f in fits.values()), sum(r.size for r in runs.values())
    rounding = FLOOR * count
    statistic = count * np.log((pooled.objective + rounding) / (apart + rounding))
    freedom = (len(fits) - 1) * len(form.names)
    return Comparison(fits, {name: bootstrap(f, draws, seed + i) for i, (name, f) in enumerate(fits.items())}, float(chi2.sf(max(statistic, 0.0), freedom)))
