"""Pictures of fits and decisions, each a matplotlib figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FormatStrFormatter, MaxNLocator, NullLocator

from effllm.scaling.conventions import Cost, SixN
from effllm.scaling.design import Design
from effllm.scaling.envelope import Envelope
from effllm.scaling.fit import Fit
from effllm.scaling.frontier import groups_of
from effllm.scaling.holdout import HoldOut
from effllm.scaling.isoflop import IsoFlop
from effllm.scaling.optimal import Plan, evaluate, optimal, spend
from effllm.scaling.profile import Profile
from effllm.scaling.runs import Runs

INK, MUTED, BLUE, ORANGE, GREEN = "#1f2933", "#9aa5b1", "#2563eb", "#d97706", "#059669"
COLOURS = (BLUE, ORANGE, GREEN, "#dc2626", "#7c3aed", "#0891b2")
STYLE = {
    "font.family": "sans-serif", "font.size": 9.5, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e4e7eb", "grid.linewidth": 0.7,
    "axes.axisbelow": True, "legend.frameon": False, "figure.dpi": 110, "savefig.dpi": 160, "svg.hashsalt": "effllm",
}  # fmt: skip
SIZES = "viridis"


def save(figure: Figure, file: str | Path) -> Path:
    """Write a figure; the file's suffix says the format."""
    with style():
        figure.savefig(file, bbox_inches="tight")
    return Path(file)


def style():
    """The house's style, as a context."""
    return matplotlib.rc_context(STYLE)


def panels(count: int, width: float = 4.2, height: float = 3.4) -> tuple[Figure, Sequence[Axes]]:
    """A row of panels in the house's style."""
    with style():
        figure = Figure(figsize=(width * count, height), layout="constrained")
        axes = figure.subplots(1, count, squeeze=False)
    return figure, list(axes[0])


def plain_log(axis: Axes, which: str = "y") -> None:
    """A logarithmic axis of a quantity that spans less than a decade, labelled with plain numbers."""
    scaled = axis.yaxis if which == "y" else axis.xaxis
    (axis.set_yscale if which == "y" else axis.set_xscale)("log")
    low, high = axis.get_ylim() if which == "y" else axis.get_xlim()
    if high / low < 30:
        ticks = MaxNLocator(6).tick_values(low, high)
        scaled.set_major_locator(FixedLocator([t for t in ticks if low <= t <= high]))
        scaled.set_major_formatter(FormatStrFormatter("%g"))
        scaled.set_minor_locator(NullLocator())


def fit_figure(fit: Fit) -> Figure:
    """Measured against fitted, and the residuals over compute (or over the law's first column)."""
    with style():
        figure, (left, right) = panels(2)
        measured, predicted = fit.runs[fit.form.target], fit.predict(fit.runs)
        compute = "params" in fit.runs.columns and "tokens" in fit.runs.columns
        x = fit.runs.flops if compute else fit.runs[fit.form.inputs[0]]
        colour = fit.runs["params"] if "params" in fit.runs.columns else x
        norm = LogNorm(colour.min(), colour.max()) if colour.min() < colour.max() else None
        points = left.scatter(x, measured, c=colour, cmap=SIZES, norm=norm, s=16, linewidths=0)
        if compute and fit.form.inputs == ("params", "tokens") and fit.form.target == "loss":
            budgets = np.geomspace(x.min(), x.max() * 10, 60)
            left.plot(budgets, [best_loss(fit.law, c) for c in budgets], color=INK, linewidth=1.3, label="compute-optimal under the law")
            left.legend(loc="upper right")
        left.set_xscale("log")
        plain_log(left)
        left.set(xlabel="training FLOPs" if compute else fit.form.inputs[0], ylabel=f"{fit.form.target}{' (nats a token)' if fit.form.target == 'loss' else ''}")
        right.axhline(0, color=INK, linewidth=0.9)
        right.scatter(x, 100 * (measured / predicted - 1), c=colour, cmap=SIZES, norm=norm, s=16, linewidths=0)
        right.set_xscale("log")
        right.set(xlabel=left.get_xlabel(), ylabel="measured over fitted − 1 (%)")
        if "params" in fit.runs.columns:
            figure.colorbar(points, ax=right, label="parameters")
        return figure


def best_loss(law: Any, budget: float) -> float:
    """The loss of the budget's optimum, NaN (no point of a line) where the law has none."""
    try:
        return float(optimal(law, budget).loss[0])
    except ValueError:
        return np.nan


def plan_figure(draws_law: Any, plan: Plan, budget: float, cost: Cost = SixN(), unique_tokens: float | None = None, inference_tokens: float = 0.0) -> Figure:
    """Loss along the budget's isoFLOP curve, with the 95 % band of the draws, the plan on it, and the plan of each draw."""
    with style():
        figure, (left, right) = panels(2)
        middle = np.nanmedian(plan.params)
        params = np.sort(np.append(np.geomspace(middle / 30, middle * 30, 200), middle))
        more = {k: float(np.nanmedian(v)) for k, v in plan.more.items()}
        cost = cost.chosen(more)
        loss_bn = evaluate(draws_law, params[None], spend(budget, params[None], cost, inference_tokens), unique_tokens, more)
        some = np.isfinite(loss_bn).any(axis=0)
        params, loss_bn = params[some], loss_bn[:, some]
        low, mid, high = np.nanquantile(loss_bn, [0.025, 0.5, 0.975], axis=0)
        if len(loss_bn) > 1:
            left.fill_between(params, low, high, color=BLUE, alpha=0.18, linewidth=0, label="95 % of the law's draws")
        left.plot(params, mid, color=BLUE, linewidth=1.6)
        best = np.nanmedian(plan.loss)
        left.plot(middle, best, "o", color=ORANGE, markersize=7, markeredgecolor="white", label="plan")
        left.set(xscale="log", xlim=(middle / 40, middle * 40))
        top, bottom = best + 0.5 * (np.nanmax(mid) - best), min(np.nanmin(low), best)
        left.set_ylim(top=top, bottom=bottom - 0.3 * (top - bottom))
        left.set(xlabel="parameters", ylabel="loss (nats a token)", title=f"{budget:.3g} FLOPs")
        left.legend(loc="lower center")
        right.scatter(plan.params, plan.tokens, s=10, color=BLUE, alpha=0.5, linewidths=0)
        right.plot(middle, np.nanmedian(plan.tokens), "o", color=ORANGE, markersize=7, markeredgecolor="white")
        if unique_tokens:
            right.axhline(unique_tokens, color=GREEN, linewidth=1.1, linestyle="--", label="unique tokens")
            right.legend()
        right.set(xscale="log", yscale="log", xlabel="parameters", ylabel="training tokens", title="plan of each draw" if len(plan.params) > 1 else "plan")
        if len(plan.params) < 2:
            right.set(xlim=(middle / 10, middle * 10), ylim=(np.median(plan.tokens) / 10, np.median(plan.tokens) * 10))
        return figure


def isoflop_figure(runs: Runs, found: IsoFlop, apart: float = 1.1, budgets: Sequence[float] | None = None) -> Figure:
    """The isoFLOP curves with their minima, and N* over C with its power law."""
    with style():
        figure, (left, right) = panels(2)
        norm = LogNorm(found.compute_c.min(), found.compute_c.max())
        colours = matplotlib.colormaps[SIZES]
        for rows in groups_of(runs.flops, apart, budgets):
            compute = np.exp(np.log(runs.flops[rows]).mean())
            inside = np.isclose(found.compute_c, compute, rtol=1e-6).any()
            order = rows[np.argsort(runs["params"][rows])]
            left.plot(runs["params"][order], runs["loss"][order], "o-" if inside else ".", color=colours(norm(compute)) if inside else MUTED, markersize=3, linewidth=0.9)
        left.plot(found.params_c, found.loss_c, "*", color=ORANGE, markersize=9, markeredgecolor="white", label="minimum")
        left.set_xscale("log")
        plain_log(left)
        left.set(xlabel="parameters", ylabel="loss (nats a token)")
        left.legend()
        error = None if np.isnan(found.std_c).any() else [found.params_c * (1 - np.exp(-found.std_c)), found.params_c * (np.exp(found.std_c) - 1)]
        right.errorbar(found.compute_c, found.params_c, yerr=error, fmt="o", color=BLUE, markersize=4, linewidth=1, label="N*")
        line = np.geomspace(found.compute_c.min(), found.compute_c.max() * 10, 30)
        right.plot(line, found.params(line), color=INK, linewidth=1.2, label=f"N* ∝ C^{found.params.exponent:.3f}")
        right.set(xscale="log", yscale="log", xlabel="training FLOPs", ylabel="optimal parameters")
        right.legend()
        return figure


def envelope_figure(runs: Runs, found: Envelope) -> Figure:
    """Training curves with their lower envelope, and N* over C."""
    with style():
        figure, (left, right) = panels(2)
        labels = np.asarray(runs.names, str)
        for name in dict.fromkeys(labels):
            rows = np.flatnonzero(labels == name)
            rows = rows[np.argsort(runs.flops[rows])]
            left.plot(runs.flops[rows], runs["loss"][rows], color=MUTED, linewidth=0.8)
        left.plot(found.compute_c, found.loss_c, color=ORANGE, linewidth=1.8, label="envelope")
        left.set_xscale("log")
        plain_log(left)
        left.set(xlabel="training FLOPs", ylabel="loss (nats a token)")
        left.legend()
        right.plot(found.compute_c, found.params_c, ".", color=BLUE, markersize=3)
        line = np.geomspace(found.compute_c.min(), found.compute_c.max(), 30)
        right.plot(line, found.params(line), color=INK, linewidth=1.2, label=f"N* ∝ C^{found.params.exponent:.3f}")
        right.set(xscale="log", yscale="log", xlabel="training FLOPs", ylabel="parameters on the envelope")
        right.legend()
        return figure


def holdout_figure(found: HoldOut) -> Figure:
    """Measured over predicted, of fitted and of held-out runs."""
    with style():
        figure, (axis,) = panels(1, width=5.6)
        target = found.fit.form.target
        used = found.fit.runs
        axis.axhline(0, color=INK, linewidth=0.9)
        axis.plot(used.flops, 100 * (used[target] / found.fit.predict(used) - 1), "o", color=MUTED, markersize=4, linewidth=0, label="fitted", markeredgewidth=0)
        error = None
        if np.isfinite(found.low_n).all():
            measured = found.runs[target]
            error = np.abs(100 * np.stack([measured / found.predicted_n - measured / found.high_n, measured / found.low_n - measured / found.predicted_n]))
        axis.errorbar(found.runs.flops, 100 * (found.runs[target] / found.predicted_n - 1), yerr=error, fmt="o", color=ORANGE, markersize=5, linewidth=1, label="held out")
        axis.set_xscale("log")
        axis.set(xlabel="training FLOPs", ylabel="measured over predicted − 1 (%)")
        axis.legend()
        return figure


def design_figure(runs: Runs, chosen: Design) -> Figure:
    """The runs at hand and those to launch, in the plane of N and D."""
    with style():
        figure, (axis,) = panels(1, width=5.2)
        axis.plot(runs["params"], runs["tokens"], "o", color=MUTED, markersize=4, label="at hand", markeredgewidth=0)
        pairs = list(zip(chosen.runs["params"], chosen.runs["tokens"], strict=True))
        for n, d in dict.fromkeys(pairs):
            axis.plot(n, d, "D", color=ORANGE, markersize=7, markeredgecolor="white")
            if pairs.count((n, d)) > 1:
                axis.annotate(f"×{pairs.count((n, d))}", (n, d), textcoords="offset points", xytext=(7, 4))
        axis.plot([], [], "D", color=ORANGE, markersize=7, markeredgecolor="white", label="to launch")
        axis.set(xscale="log", yscale="log", xlabel="parameters", ylabel="training tokens")
        axis.legend()
        return figure


def profile_figure(profiles: Sequence[Profile], logarithmic: Sequence[str] = ()) -> Figure:
    """Each profile relative to its minimum, with the threshold of its interval."""
    with style():
        figure, axes = panels(len(profiles), width=3.9)
        for axis, found in zip(axes, profiles, strict=True):
            lowest = found.objective_g.min()
            axis.plot(found.value_g, 100 * (found.objective_g / lowest - 1), color=BLUE, linewidth=1.6)
            axis.axhline(100 * (found.threshold / lowest - 1), color=ORANGE, linewidth=1.1, linestyle="--", label=f"{100 * found.level:.0f} % interval")
            axis.set(xlabel=found.name, ylabel="objective above its minimum (%)", xscale="log" if found.name in logarithmic else "linear")
            axis.set_ylim(0, min(100 * (found.objective_g / lowest - 1).max(), 400 * (found.threshold / lowest - 1)) * 1.05)
            axis.legend()
        return figure
