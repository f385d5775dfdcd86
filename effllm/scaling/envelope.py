"""Approach 1: the lower envelope of training curves (Hoffmann et al. 2022, arXiv 2203.15556, §3.1)."""

from dataclasses import dataclass

import numpy as np

from effllm.scaling.frontier import Power, regress
from effllm.scaling.runs import Runs

WARNINGS = (
    "points on the envelope before a curve's end were not annealed: unless each run's schedule matched its length, this overstates the loss of short runs",
    "the envelope is a minimum over curves and so picks favourable noise; smooth the curves or leave out the first steps",
    "points on one envelope are not independent: the interval of the exponent is far too narrow",
)
ONE_SIZE = 1.2


@dataclass(frozen=True)
class Envelope:
    """compute_c, params_c, tokens_c, loss_c: the best curve at each of many budgets. params, tokens: power laws of C through them."""

    compute_c: np.ndarray
    params_c: np.ndarray
    tokens_c: np.ndarray
    loss_c: np.ndarray
    params: Power
    tokens: Power
    warnings: tuple[str, ...] = WARNINGS


def envelope(runs: Runs, points: int = 1500) -> Envelope:
    """The lowest of all training curves at `points` log-spaced budgets, each curve interpolated linearly in (ln C, ln L).

    runs: one row a logged step; `names` says which curve it belongs to. Budgets that only one curve reaches say nothing and are left out.
    Raises ValueError without names, for a name of models of different sizes, for fewer than two curves, or where no two overlap.
    """
    if runs.names is None:
        raise ValueError("the envelope needs curves: name each row's run (column run), one row a logged step")
    labels = np.asarray(runs.names, str)
    curves = [np.flatnonzero(labels == name) for name in dict.fromkeys(labels)]
    curves = [rows[np.argsort(runs.flops[rows])] for rows in curves if len(rows) > 1]
    for rows in curves:
        sizes = runs["params"][rows]
        if sizes.max() > ONE_SIZE * sizes.min():
            raise ValueError(f"the curve {str(labels[rows[0]])!r} has models of {sizes.min():.3g} to {sizes.max():.3g} parameters: name each run's rows apart")
    if len(curves) < 2:
        raise ValueError(f"the envelope needs at least two curves of two steps each, got {len(curves)}")
    log_c = np.linspace(np.log(runs.flops.min()), np.log(runs.flops.max()), points)
    loss_kc, tokens_kc = (np.stack([along(runs, rows, log_c, name) for rows in curves]) for name in ("loss", "tokens"))
    kept = np.isfinite(loss_kc).sum(0) > 1
    if kept.sum() < 2:
        raise ValueError("no two curves cover the same budget, so none can be compared: train the small models for longer")
    best = np.nanargmin(loss_kc[:, kept], axis=0)
    params_c = np.array([runs["params"][rows[0]] for rows in curves])[best]
    pick = (best, np.arange(kept.sum()))
    compute_c, loss_c, tokens_c = np.exp(log_c[kept]), np.exp(loss_kc[:, kept][pick]), np.exp(tokens_kc[:, kept][pick])
    return Envelope(compute_c, params_c, tokens_c, loss_c, regress(compute_c, params_c), regress(compute_c, tokens_c))


def along(runs: Runs, rows: np.ndarray, log_c: np.ndarray, name: str) -> np.ndarray:
    """ln of a column of one curve at budgets ln C, NaN outside of it."""
    return np.interp(log_c, np.log(runs.flops[rows]), np.log(runs[name][rows]), left=np.nan, right=np.nan)
