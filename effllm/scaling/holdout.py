"""What accuracy of prediction to expect: leave out the largest runs, fit the rest, and look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from effllm.scaling.bootstrap import Draws, bootstrap
from effllm.scaling.fit import Fit, fit
from effllm.scaling.objective import LogHuber, Objective
from effllm.scaling.runs import Runs


@dataclass(frozen=True)
class HoldOut:
    """fit: of the smaller runs. runs: the held-out ones. predicted_n their predicted targets, low_n and high_n the 95 % interval of the prediction (bootstrap
    of the law, without the noise of a run; NaN where no draws were asked for). reach: FLOPs of the largest held-out run over the largest fitted one."""

    fit: Fit
    runs: Runs
    predicted_n: np.ndarray
    low_n: np.ndarray
    high_n: np.ndarray
    reach: float

    @property
    def error_n(self) -> np.ndarray:
        """(predicted − measured)/measured of each."""
        return self.predicted_n / self.runs[self.fit.form.target] - 1

    @property
    def mean_error(self) -> float:
        """The mean size of the relative error."""
        return float(np.abs(self.error_n).mean())

    @property
    def bias(self) -> float:
        """The mean relative error with its sign: above zero, larger runs do better than the law says."""
        return float(self.error_n.mean())


def holdout(
    law: Any, runs: Runs, largest: int = 5, *, by: str = "flops", loss: Objective = LogHuber(), starts: Mapping[str, Sequence[float]] | None = None,
    draws: int = 0, seed: int = 0,
) -> HoldOut:  # fmt: skip
    """Fit `law` (starts as for `fit`) to all but the `largest` runs by FLOPs (or by a column), and predict those. Raises ValueError where too few remain."""
    size = runs.flops if by == "flops" else runs[by]
    if not 0 < largest < runs.size:
        raise ValueError(f"holding out {largest} of {runs.size} runs leaves nothing to compare: choose 1 to {runs.size - 1}")
    order = np.argsort(size, kind="stable")
    small, large = runs.where(np.sort(order[:-largest])), runs.where(np.sort(order[-largest:]))
    fitted = fit(law, small, loss=loss, starts=starts)
    low_n = high_n = np.full(large.size, np.nan)
    if draws:
        predicted_bn = predict(bootstrap(fitted, draws, seed), large)
        low_n, high_n = np.quantile(predicted_bn, [0.025, 0.975], axis=0)
    return HoldOut(fitted, large, fitted.predict(large), low_n, high_n, float(large.flops.max() / small.flops.max()))


def predict(draws: Draws, runs: Runs) -> np.ndarray:
    """(B, n): the target of runs under each draw."""
    return np.asarray(draws.law(1)(*(runs[n] for n in draws.fit.form.inputs)))
