"""Which runs to launch next: the set under a FLOP budget that makes the law's parameters, or a prediction, most certain."""

from dataclasses import dataclass

import numpy as np

from effllm.scaling.conventions import Cost, SixN
from effllm.scaling.fit import Fit, jacobian
from effllm.scaling.runs import Runs


@dataclass(frozen=True)
class Design:
    """runs: params, tokens and flops of the chosen ones, and the loss that the law expects. gain: how much ln det of the information grows.

    shrink: {parameter: its standard error after over before}, if the new runs scatter as the old. prediction: the same for ln L at the target.
    """

    runs: Runs
    gain: float
    shrink: dict[str, float]
    prediction: float | None


def candidates(budget: float, params: np.ndarray, ratios: np.ndarray, cost: Cost = SixN()) -> Runs:
    """All pairs of N from `params` and D/N from `ratios` that cost at most the budget. Raises ValueError where none does."""
    n, ratio = (a.ravel() for a in np.meshgrid(params, ratios, indexing="ij"))
    compute = cost.per_token(n) * n * ratio
    keep = compute <= budget
    if not keep.any():
        raise ValueError(f"no candidate run costs less than the budget of {budget:.2g} FLOPs: the cheapest costs {compute.min():.2g}")
    return Runs({"params": n[keep], "tokens": (n * ratio)[keep], "flops": compute[keep]})


def design(fit: Fit, budget: float, candidates: Runs, count: int = 8, target: Runs | None = None, repeats: int = 2) -> Design:
    """Up to `count` of the candidate runs, together at most `budget` FLOPs.

    Without a target, D-optimal: the largest det Σ J Jᵀ together with the runs at hand. With a target (runs whose loss one wants to know), the least
    variance of ln L there. Candidates are added greedily by gain per FLOP^s for several s, then exchanged one by one while that helps
    (Fedorov 1972); each candidate is taken at most `repeats` times. Those that should be worse than every run at hand are left out: the law was never
    seen there, and a design likes extremes. Raises ValueError where none is left, and for no runs.
    """
    if count < 1:
        raise ValueError(f"a design of {count} runs launches nothing: ask for at least one")
    law_runs = candidates.with_column("loss", fit.predict(candidates))
    law_runs = law_runs.where(law_runs["loss"] <= fit.runs[fit.form.target].max())
    if not law_runs.size:
        raise ValueError(f"every candidate of at most {budget:.2g} FLOPs should have a higher loss than all runs at hand, where the law was never tested: raise the budget")
    free = list(fit.free)
    j_kp = jacobian(fit.form, law_runs, fit.loss, fit.theta_p)[:, free]
    j_np = jacobian(fit.form, fit.runs, fit.loss, fit.theta_p)[:, free] * np.sqrt(fit.weights_n)[:, None]
    scale = np.sqrt((j_np**2).sum(0))
    scale = np.where(scale > 0, scale, 1.0)
    j_kp, j_np = j_kp / scale, j_np / scale
    base = j_np.T @ j_np + 1e-12 * np.eye(len(free))
    aim = None
    if target is not None:
        aim = jacobian(fit.form, target.with_column("loss", fit.predict(target)), fit.loss, fit.theta_p)[:, free] / scale

    def worth(chosen: list[int]) -> float:
        information = base + j_kp[chosen].T @ j_kp[chosen]
        if aim is None:
            return float(np.linalg.slogdet(information)[1])
        return -float(np.log(np.einsum("ki,ij,kj->k", aim, np.linalg.inv(information), aim)).mean())

    price = law_runs.flops
    best = max((exchange(greedy(worth, price, budget, count, repeats, s), worth, price, budget, repeats) for s in (0.0, 0.3, 0.6, 1.0)), key=worth)
    if not best:
        raise ValueError(f"no candidate run fits into the budget of {budget:.2g} FLOPs")
    best.sort(key=lambda k: price[k])
    after = base + j_kp[best].T @ j_kp[best]
    shrink = np.sqrt(np.diag(np.linalg.inv(after)) / np.diag(np.linalg.inv(base)))
    prediction = None if aim is None else float(np.exp(-(worth(best) - worth([])) / 2))
    names = [fit.form.names[i] for i in free]
    return Design(law_runs.where(np.array(best)), worth(best) - worth([]), dict(zip(names, map(float, shrink), strict=True)), prediction)


def greedy(worth, price: np.ndarray, budget: float, count: int, repeats: int, power: float) -> list[int]:
    """Add the candidate of most gain per FLOP^power while it fits."""
    chosen: list[int] = []
    while len(chosen) < count:
        left = budget - price[chosen].sum()
        fits = [k for k in np.flatnonzero(price <= left) if chosen.count(k) < repeats]
        if not fits:
            break
        now = worth(chosen)
        chosen.append(int(max(fits, key=lambda k: (worth([*chosen, k]) - now) / price[k] ** power)))
    return chosen


def exchange(chosen: list[int], worth, price: np.ndarray, budget: float, repeats: int, rounds: int = 20) -> list[int]:
    """Swap one run for a candidate while the design gains."""
    for _ in range(rounds):
        best, found = worth(chosen), None
        for i in range(len(chosen)):
            rest = chosen[:i] + chosen[i + 1 :]
            left = budget - price[rest].sum()
            for k in np.flatnonzero(price <= left):
                if rest.count(k) < repeats and (value := worth([*rest, int(k)])) > best + 1e-9:
                    best, found = value, [*rest, int(k)]
        if found is None:
            return chosen
        chosen = found
    return chosen
