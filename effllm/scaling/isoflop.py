"""Approach 2: the best size on each isoFLOP curve (Hoffmann et al. 2022, arXiv 2203.15556, §3.2; Porian et al. 2024, arXiv 2406.19146)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from effllm.scaling.conventions import Cost, SixN
from effllm.scaling.frontier import Power, groups_of, regress
from effllm.scaling.numeric import zoom
from effllm.scaling.optimal import optimal
from effllm.scaling.runs import Runs


def parabola(log_n: np.ndarray, log_loss: np.ndarray) -> tuple[float, float] | None:
    """(ln N*, ln L*) of the least-squares parabola, None where it opens downwards or there are fewer than three sizes."""
    if len(np.unique(log_n)) < 3:
        return None
    a, b, c = np.polyfit(log_n - log_n.mean(), log_loss, 2)
    return None if a <= 0 else (float(log_n.mean() - b / (2 * a)), float(c - b * b / (4 * a)))


def akima(log_n: np.ndarray, log_loss: np.ndarray) -> tuple[float, float] | None:
    """(ln N*, ln L*) of Akima's interpolant, which no symmetry is asked of. Sizes within 5 % of the one before count as one, with their mean: an
    interpolant through neighbours that differ by noise overshoots without bound. A minimum at the smallest or largest of these is reported at the end of
    the sizes, for it is none. None for fewer than three sizes."""
    merged = groups_of(np.exp(log_n), 1.05)
    if len(merged) < 3:
        return None
    sizes, losses = (np.array([values[rows].mean() for rows in merged]) for values in (log_n, log_loss))
    curve = Akima1DInterpolator(sizes, losses)
    middle = int(np.argmin(curve(sizes)))
    best = zoom(curve, sizes[max(0, middle - 1)], sizes[min(len(sizes) - 1, middle + 1)])[0]
    for end, edge in ((sizes[0], log_n.min()), (sizes[-1], log_n.max())):
        if abs(best - end) < 1e-6:
            return float(edge), float(curve(end))
    return float(best), float(curve(best))


Method = Callable[[np.ndarray, np.ndarray], tuple[float, float] | None]


@dataclass(frozen=True)
class IsoFlop:
    """compute_c, params_c, tokens_c, loss_c: the optimum of each budget C. std_c: standard deviation of ln N* (NaN without noise).

    params, tokens: N* and D* as power laws of C. left_out: budgets without a bracketed minimum, and why. warnings: known biases, in words.
    """

    compute_c: np.ndarray
    params_c: np.ndarray
    tokens_c: np.ndarray
    loss_c: np.ndarray
    std_c: np.ndarray
    params: Power
    tokens: Power
    left_out: tuple[tuple[float, str], ...]
    warnings: tuple[str, ...]


def isoflop(
    runs: Runs, method: Method = akima, *, cost: Cost | None = None, noise: float = 0.0, draws: int = 200, seed: int = 0, apart: float = 1.1,
    budgets: Sequence[float] | None = None,
) -> IsoFlop:  # fmt: skip
    """The minimum of each budget's runs in (ln N, ln L), then N* ∝ C^a over budgets. D* is interpolated between the runs' own tokens; it is C over
    `cost` a token where that is given, over 6·N where the runs have no tokens.

    Runs whose FLOPs differ by less than the factor `apart` (or from one of `budgets`, where they are known) count as one budget. noise: standard
    deviation of ln L between seeds; with it each minimum gets a spread from `draws` perturbed curves, and the regression weighs budgets by 1/σ². A minimum at the smallest or largest size is no minimum: that
    budget is left out. Raises ValueError where fewer than two budgets remain.
    """
    generator = np.random.default_rng(seed)
    cost = cost or (None if "tokens" in runs.columns else SixN())
    found, left_out = [], []
    for rows in groups_of(runs.flops, apart, budgets):
        log_n, log_loss, compute = np.log(runs["params"][rows]), np.log(runs["loss"][rows]), float(np.exp(np.log(runs.flops[rows]).mean()))
        best = method(log_n, log_loss)
        if best is None:
            left_out.append((compute, "fewer than three sizes, or no curvature"))
            continue
        if not log_n.min() + 1e-6 < best[0] < log_n.max() - 1e-6:
            left_out.append((compute, "its minimum is not between its smallest and largest model"))
            continue
        moved = [method(log_n, log_loss + noise * generator.standard_normal(len(rows))) for _ in range(draws if noise else 0)]
        moved = [np.clip(m[0], log_n.min(), log_n.max()) for m in moved if m]
        order = np.argsort(log_n, kind="stable")
        tokens = compute / cost.per_token(np.exp(best[0])) if cost else np.exp(np.interp(best[0], log_n[order], np.log(runs["tokens"][rows][order])))
        found.append((compute, np.exp(best[0]), tokens, np.exp(best[1]), max(np.std(moved), 1e-6) if moved else np.nan))
    if len(found) < 2:
        reasons = "; ".join(f"{c:.2g}: {why}" for c, why in left_out[:3])
        few = f"only {len(found)} of {len(found) + len(left_out)} FLOP budgets have a minimum between two sizes ({reasons})"
        raise ValueError(f"{few}: add sizes to each budget, or name the flops column")
    compute_c, params_c, tokens_c, loss_c, std_c = np.array(found).T
    weights = None if np.isnan(std_c).any() else 1 / std_c**2
    warnings = cautions(len(compute_c), left_out, method)
    n, d = regress(compute_c, params_c, weights), regress(compute_c, tokens_c, weights)
    return IsoFlop(compute_c, params_c, tokens_c, loss_c, std_c, n, d, tuple(left_out), warnings)


def cautions(budgets: int, left_out: list, method: Method) -> tuple[str, ...]:
    """What is known to mislead this approach."""
    warnings = []
    if method is parabola:
        warnings.append("a parabola is symmetric, loss curves are not unless α = β: its vertex is biased towards the better sampled side; compare akima")
    else:
        warnings.append("Akima's interpolant follows single runs, so one noisy run moves the minimum; compare parabola")
    if budgets < 4:
        warnings.append(f"an exponent from {budgets} budgets: its interval is wide or meaningless")
    if left_out:
        warnings.append(f"{len(left_out)} budgets were left out, which biases the exponent if they lie at one end")
    return tuple(warnings)


def bias(law: Any, runs: Runs, method: Method = akima, cost: Cost = SixN(), apart: float = 1.1, budgets: Sequence[float] | None = None) -> float:
    """By how much this approach errs in the exponent of N* on these very sizes and budgets if `law` were true and without noise: the exponent that it
    finds in the law's own losses minus that of the law's own optima."""
    ideal = runs.with_column("loss", np.asarray(law(*(runs[n] for n in law.inputs))))
    found = isoflop(ideal, method, cost=cost, apart=apart, budgets=budgets)
    true = np.array([optimal(law, c, cost=cost).params[0] for c in found.compute_c])
    return found.params.exponent - regress(found.compute_c, true).exponent
