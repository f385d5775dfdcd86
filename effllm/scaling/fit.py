"""Fit a law to runs, and say how far the answer can be trusted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from effllm.scaling.law import Form, form_of
from effllm.scaling.objective import LogHuber, Objective
from effllm.scaling.runs import Runs
from effllm.scaling.solver import Solved, minimise
from effllm.scaling.starts import grid, projected

AGREE = 1e-3


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    law: the law with its parameters, callable. objective: Σ w ρ at the minimum. converged: whether its Newton decrement is below tolerance.
    n_starts, n_starts_at_best: how many starts there were, and how many came within 0.1 % of the best objective; a few of many means that the best
    may not be the lowest. minima: distinct local minima found, best first, as (objective, parameters). condition: condition number of the
    Gauss–Newton matrix in the fitted coordinates. relative_rms: root mean square of ln L̂ − ln L. warnings: what a reader must know.
    """

    law: Any
    form: Form
    runs: Runs
    loss: Objective
    theta_p: np.ndarray
    weights_n: np.ndarray
    objective: float
    converged: bool
    n_starts: int
    n_starts_at_best: int
    minima: tuple[tuple[float, dict[str, float]], ...]
    condition: float
    relative_rms: float
    free: tuple[int, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def params(self) -> dict[str, float]:
        """The fitted parameters by name."""
        return {n: float(v) for n, v in zip(self.form.names, self.form.natural(self.theta_p), strict=True)}

    def predict(self, runs: Runs) -> np.ndarray:
        """The law's target for other runs."""
        return np.asarray(self.law(*(runs[n] for n in self.form.inputs)))

    def to_json(self) -> dict[str, Any]:
        """What a machine reads: {law, params, objective, converged, n_starts, n_starts_at_best, condition, relative_rms, runs, warnings}."""
        return {
            "law": self.form.label.lower(), "params": self.params, "objective": self.objective, "converged": self.converged, "n_starts": self.n_starts,
            "n_starts_at_best": self.n_starts_at_best, "condition": self.condition, "relative_rms": self.relative_rms, "runs": self.runs.size,
            "warnings": list(self.warnings),
        }  # fmt: skip


def fit(
    law: Any, runs: Runs, *, loss: Objective = LogHuber(), starts: Mapping[str, Sequence[float]] | None = None, fixed: Mapping[str, float] | None = None,
    weights: np.ndarray | None = None, progress: Callable[[int], None] = lambda done: None,
) -> Fit:  # fmt: skip
    """Fit a Law class, or a function `f(columns..., parameters...)`, to runs.

    starts: {parameter: values}, whose product is the grid of starts; for a Law class the default is its own grid, with the linear parameters
    solved for at each point. fixed: {parameter: value} that do not move. weights: (n,) of the runs, 1 by default.
    Raises ValueError for a missing column, an unknown parameter in fixed or a value that it cannot have, weights that are none, nothing left to fit, fewer
    runs than free parameters, and a column that is the same in every run (the law then cannot be told apart from a simpler one).
    """
    form = form_of(law, starts)
    fixed = dict(fixed or {})
    unknown = sorted(set(fixed) - set(form.names))
    if unknown:
        raise ValueError(f"{form.label} has no parameter {', '.join(unknown)}; it has {', '.join(form.names)}")
    for name, held in fixed.items():
        if not np.isfinite(held) or (name in form.positive and held < 0):
            raise ValueError(f"{name} cannot be fixed at {held:g}: it must be finite{' and not negative' if name in form.positive else ''}")
    if len(fixed) == len(form.names):
        raise ValueError(f"every parameter of {form.label} is fixed: leave one free, or use the law as it is")
    columns, target = [runs[n] for n in form.inputs], runs[form.target]
    free = tuple(i for i, n in enumerate(form.names) if n not in fixed)
    weights_n = np.ones(runs.size) if weights is None else np.asarray(weights, float)
    check(form, runs, free, weights_n)
    if starts and isinstance(law, type):
        theta_sp = grid(form, {**starts, **{n: (v,) for n, v in fixed.items()}})
    else:
        theta_sp = projected(form, columns, target, fixed)
    solved = minimise(form, loss, columns, target, theta_sp, weights_n[None], free, progress=progress)
    return assemble(form, runs, loss, weights_n, free, solved)


def check(form: Form, runs: Runs, free: tuple[int, ...], weights_n: np.ndarray) -> None:
    """Raise ValueError for runs, or weights of them, that cannot determine the free parameters."""
    if weights_n.shape != (runs.size,) or not (np.isfinite(weights_n) & (weights_n >= 0)).all():
        raise ValueError(f"weights must be one number of at least zero for each of the {runs.size} runs")
    used = int((weights_n > 0).sum())
    if used < len(free):
        names = ", ".join(form.names[i] for i in free)
        raise ValueError(f"{used} runs cannot determine the {len(free)} parameters of {form.label} ({names}): add runs or fix some")
    if len(free) < len(form.names):
        return
    for name in form.inputs:
        if np.ptp(runs[name][weights_n > 0]) == 0:
            same = f"every run has {name}={runs[name][0]:g}, so {form.label} cannot be told apart from a law without it"
            raise ValueError(f"{same}: add runs of another {name}, or fix its parameters")


def assemble(form: Form, runs: Runs, loss: Objective, weights_n: np.ndarray, free: tuple[int, ...], solved: Solved) -> Fit:
    """The best of the solved starts, and how the others compare."""
    objective_b = np.where(np.isfinite(solved.objective_b), solved.objective_b, np.inf)
    if not np.isfinite(objective_b).any():
        raise ValueError(f"{form.label} is not finite at any of its starts on these runs: {remedy(form, runs)}")
    lowest = objective_b.min()
    scale = lowest + 1e-18 * weights_n.sum()
    near = objective_b <= lowest + 1e-9 * scale
    best = int(np.flatnonzero(near)[np.argmax(solved.converged_b[near])])
    at_best = int((objective_b <= lowest + AGREE * scale).sum())
    theta_p, converged = solved.theta_bp[best], bool(solved.converged_b[best])
    law = form.build([float(v) for v in form.natural(theta_p)])
    prediction = np.asarray(law(*(runs[n] for n in form.inputs)))
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.log(prediction) - np.log(runs[form.target])
    condition = conditioning(form, runs, loss, theta_p, weights_n, free)
    warnings = []
    if not converged:
        warnings.append(f"did not converge: after {solved.iterations_b[best]} iterations the objective still falls; the parameters below are not a minimum")
    if at_best == 1 and len(objective_b) > 1:
        warnings.append(f"only 1 of {len(objective_b)} starts reached the best objective: it may not be the lowest; try more starts")
    if condition > 1e14:
        size_p = np.linalg.norm(jacobian(form, runs, loss, theta_p) * np.sqrt(weights_n)[:, None], axis=0)
        idle = [form.names[i] for i in free if not size_p[i] > 1e-7 * np.nanmax(size_p)]
        which = f"{', '.join(idle)} could be anything" if idle else "some parameters trade for one another"
        warnings.append(f"condition number {condition:.1e}: {which}, as far as these runs say; look at their profiles")
    return Fit(
        law, form, runs, loss, theta_p, weights_n, float(objective_b[best]), converged, len(objective_b), at_best, distinct(form, solved, objective_b, free), condition,
        float(np.sqrt(np.average(relative**2, weights=weights_n))), free, tuple(warnings),
    )  # fmt: skip


def remedy(form: Form, runs: Runs) -> str:
    """What to do about a law that is nowhere finite: columns of which it may take a logarithm come first."""
    for name in (*form.inputs, form.target):
        rows = np.flatnonzero(runs[name] <= 0)
        if len(rows):
            return f"column {name!r} is zero or negative in {len(rows)} of them (row {rows[0] + 1}), so leave those out, or minimise an objective without logarithms"
    return "give starts={name: values} nearer to them"


def distinct(form: Form, solved: Solved, objective_b: np.ndarray, free: tuple[int, ...], most: int = 4) -> tuple[tuple[float, dict[str, float]], ...]:
    """Converged minima that differ by more than 1 % in some fitted coordinate and lie within 5 % of the best, best first."""
    kept: list[int] = []
    for b in np.argsort(objective_b, kind="stable"):
        if objective_b[b] > 1.05 * objective_b.min() + 1e-18 or len(kept) == most:
            break
        theta = solved.theta_bp[b][list(free)]
        apart = all(np.abs(theta - solved.theta_bp[k][list(free)]).max() > 0.01 for k in kept)
        if apart and (solved.converged_b[b] or not kept):
            kept.append(int(b))
    return tuple((float(objective_b[b]), dict(zip(form.names, map(float, form.natural(solved.theta_bp[b])), strict=True))) for b in kept)


def conditioning(form: Form, runs: Runs, loss: Objective, theta_p: np.ndarray, weights_n: np.ndarray, free: tuple[int, ...]) -> float:
    """Condition number of Σ w J Jᵀ at θ."""
    singular = np.linalg.svd(jacobian(form, runs, loss, theta_p)[:, list(free)] * np.sqrt(weights_n)[:, None], compute_uv=False)
    return float("inf") if not np.isfinite(singular).all() or singular[-1] == 0 else float((singular[0] / singular[-1]) ** 2)


def jacobian(form: Form, runs: Runs, loss: Objective, theta_p: np.ndarray) -> np.ndarray:
    """∂r/∂θ (n, p) by central differences of the law itself."""
    columns, target = [runs[n] for n in form.inputs], runs[form.target]
    h = 1e-6 * np.maximum(1.0, np.abs(np.where(np.isfinite(theta_p), theta_p, 0.0)))

    def r(theta):
        return np.asarray(loss.residual(np.asarray(form.predict(form.natural(theta), columns)), target))

    return np.stack([(r(theta_p + e) - r(theta_p - e)) / (2 * h[i]) for i, e in enumerate(np.diag(h))], axis=1)
