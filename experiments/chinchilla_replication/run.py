"""Hoffmann et al. 2022's three approaches on the points that were read off their figure.

    python -m experiments.chinchilla_replication.run --runs df.csv [--all-points svg_extracted_data.csv]

df.csv: github.com/kyo-takano/chinchilla, examples/llm/df.csv (Apache-2.0; 234 points, columns C, N, D, loss).
svg_extracted_data.csv: github.com/epoch-research/analyzing-chinchilla, data/ (no licence; 245 points, those that Besiroglu et al. fitted).
"""

import argparse
from pathlib import Path

import numpy as np

from effllm.scaling import Chinchilla, LogHuber, Runs, akima, bias, bootstrap, envelope, fit, holdout, isoflop, laplace, optimal, parabola, plots, profile, read_csv
from effllm.scaling.laws.hoffmann import GRID
from experiments.speed import measure

HERE = Path(__file__).parent
BUDGETS = (6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21)
GOPHER = 5.76e23
NAMES = ("E", "A", "B", "alpha", "beta")
PAPERS = {
    "Hoffmann et al., approach 3": Chinchilla.published(),
    "Besiroglu et al., headline": Chinchilla(),
}  # fmt: skip
BESIROGLU_ERRORS = {"E": 0.0257, "A": 124.52, "B": 1293.28, "alpha": 0.0154, "beta": 0.0206}


def all_points(file: str) -> Runs:
    """The 245 digitised points; tokens from C = 6ND."""
    runs = read_csv(file, {"params": "Model Size", "tokens": "Training FLOP", "flops": "Training FLOP"})
    return runs.with_column("tokens", runs.flops / (6 * runs["params"]))


def described(law, intervals=None) -> dict:
    values = {n: float(v) for n, v in law.values().items()}
    plan = optimal(law, GOPHER)
    entry = {"params": values, "exponent": values["beta"] / (values["alpha"] + values["beta"]), "params_at_gopher": float(plan.params[0]), "tokens_per_param": float(plan.tokens_per_param[0])}
    return entry | ({"ci": {n: [i.low, i.high] for n, i in intervals.items()}} if intervals else {})


def parametric(runs: Runs) -> dict:
    """Approach 3 with Hoffmann's grid of starts, its intervals three ways, and the limit of δ → 0."""
    fitted = fit(Chinchilla, runs, starts=GRID)
    draws = bootstrap(fitted, 4000)
    absolute = fit(Chinchilla, runs, loss=LogHuber(1e-7))
    spread = optimal(draws.law(1), GOPHER)
    profiles = {n: profile(fitted, n, np.linspace(*ends, 61)) for n, ends in (("E", (1.6, 1.95)), ("alpha", (0.25, 0.45)), ("beta", (0.25, 0.5)))}
    summary = described(fitted.law, draws.intervals()) | {
        "objective": fitted.objective, "converged": fitted.converged, "starts": fitted.n_starts, "at_best": fitted.n_starts_at_best, "condition": fitted.condition, "relative_rms": fitted.relative_rms,
        "laplace": {n: [i.low, i.high] for n, i in laplace(fitted).items()}, "profile": {n: [p.low, p.high] for n, p in profiles.items()},
        "bootstrap_std": {n: float(np.std(v)) for n, v in draws.params.items()}, "draws_converged": draws.converged,
        "tokens_per_param_ci": [float(q) for q in np.quantile(spread.tokens_per_param, [0.025, 0.975])],
        "exponent_ci": [float(q) for q in np.quantile(draws.params["beta"] / (draws.params["alpha"] + draws.params["beta"]), [0.025, 0.975])],
    }  # fmt: skip
    return {"huber": summary, "absolute": described(absolute.law) | {"objective": absolute.objective, "converged": absolute.converged}}


def sizes_as_curves(runs: Runs) -> Runs:
    """Runs of nearly one size taken as one curve: the figure shows final losses only, so this is approach 1 in form, not on training curves."""
    order = np.argsort(runs["params"])
    jumps = np.concatenate([[0], np.cumsum(np.diff(np.log(runs["params"][order])) > 0.02)])
    label = np.empty(runs.size, int)
    label[order] = jumps
    return Runs(runs.columns, tuple(f"{i}" for i in label))


def three(runs: Runs) -> dict:
    found = {"runs": runs.size, "approach_3": parametric(runs)}
    law = Chinchilla(**found["approach_3"]["huber"]["params"])
    for method in (parabola, akima):
        at = isoflop(runs, method, budgets=BUDGETS, apart=1.25)
        found[f"approach_2_{method.__name__}"] = {
            "exponent": at.params.exponent, "low": at.params.low, "high": at.params.high, "left_out": len(at.left_out),
            "bias": bias(law, runs, method, budgets=BUDGETS, apart=1.25), "params_at_gopher": float(at.params(GOPHER)),
        }  # fmt: skip
    at = envelope(sizes_as_curves(runs))
    found["approach_1"] = {"exponent": at.params.exponent, "params_at_gopher": float(at.params(GOPHER))}
    out = holdout(Chinchilla, runs, 10, draws=300)
    found["holdout"] = {"largest": 10, "mean_error": out.mean_error, "bias": out.bias, "reach": out.reach}
    return found


def span(ends) -> str:
    return f"{ends[0]:.4g} … {ends[1]:.4g}"


def table(results: dict) -> str:
    lines = ["| | E | A | B | α | β | a = β/(α+β) | D/N at 5.76e23 FLOPs |", "|---|---|---|---|---|---|---|---|"]

    def row(name, entry):
        p = entry["params"]
        lines.append(f"| {name} | {p['E']:.4f} | {p['A']:.2f} | {p['B']:.2f} | {p['alpha']:.4f} | {p['beta']:.4f} | {entry['exponent']:.3f} | {entry['tokens_per_param']:.1f} |")

    row("Hoffmann et al., approach 3", results["papers"]["Hoffmann et al., approach 3"])
    row("Besiroglu et al., headline (standard errors below)", results["papers"]["Besiroglu et al., headline"])
    for name, found in results["points"].items():
        third = found["approach_3"]
        row(f"ours, {name}: log-Huber δ = 1e-3", third["huber"])
        row(f"ours, {name}: δ → 0 (least absolute deviation)", third["absolute"])
    for name, found in results["points"].items():
        h = third = found["approach_3"]["huber"]
        lines += ["", f"**{name}** ({found['runs']} runs). Objective {h['objective']:.6g}; {'converged' if h['converged'] else 'NOT CONVERGED'}; {h['at_best']:,} of {h['starts']:,} of Hoffmann's starts end within 0.1 % of it; "
                  f"condition {h['condition']:.1e}; residuals {h['relative_rms']:.2%} rms; {h['draws_converged']:.1%} of 4,000 bootstrap draws converged.", "",
                  "| 95 % interval | " + " | ".join(("E", "A", "B", "α", "β")) + " |", "|---|---|---|---|---|---|",
                  "| bootstrap over runs | " + " | ".join(span(h["ci"][n]) for n in NAMES) + " |",
                  "| Laplace (sandwich) | " + " | ".join(span(h["laplace"][n]) for n in NAMES) + " |",
                  "| profile | " + " | ".join(span(h["profile"][n]) if n in h["profile"] else "" for n in NAMES) + " |",
                  "| standard deviation of the draws | " + " | ".join(f"{h['bootstrap_std'][n]:.4g}" for n in NAMES) + " |",
                  "| Besiroglu et al.'s standard errors | " + " | ".join(f"{BESIROGLU_ERRORS[n]:.4g}" for n in NAMES) + " |", "",
                  "| N* ∝ C^a | paper | ours | 95 % | bias on these sizes |", "|---|---|---|---|---|",
                  f"| approach 1, envelope (final losses by size, see below) | 0.50 | {found['approach_1']['exponent']:.3f} | | |"]  # fmt: skip
        for method in ("parabola", "akima"):
            at = found[f"approach_2_{method}"]
            lines.append(f"| approach 2, {method} | {'0.49' if method == 'parabola' else ''} | {at['exponent']:.3f} | {at['low']:.2f} … {at['high']:.2f} | {at['bias']:+.3f} |")
        lines.append(f"| approach 3 | 0.46 | {third['exponent']:.3f} | {span(third['exponent_ci'])} | |")
        out = found["holdout"]
        lines += ["", f"Holding out the {out['largest']} largest runs ({out['reach']:.1f} times the largest fitted one): mean error {out['mean_error']:.2%}, bias {out['bias']:+.2%}. "
                  f"D/N at 5.76e23 FLOPs: {h['tokens_per_param']:.1f} ({span(h['tokens_per_param_ci'])})."]  # fmt: skip
    return "\n".join(lines) + "\n"


def picture(runs: Runs, name: str) -> None:
    """isoFLOP points with the fit, and N* over C by every approach."""
    fitted = fit(Chinchilla, runs)
    draws = bootstrap(fitted, 400)
    with plots.style():
        figure, (left, right) = plots.panels(2, width=4.6, height=3.6)
        colours = plots.matplotlib.colormaps[plots.SIZES]
        for i, budget in enumerate(BUDGETS):
            rows = np.abs(np.log(runs.flops / budget)) < np.log(1.25)
            colour = colours(i / (len(BUDGETS) - 1) * 0.92)
            left.plot(runs["params"][rows], runs["loss"][rows], "o", color=colour, markersize=3, markeredgewidth=0, label=f"{budget:.0e}")
            sizes = np.geomspace(runs["params"][rows].min(), runs["params"][rows].max(), 60)
            left.plot(sizes, fitted.law(sizes, budget / (6 * sizes)), color=colour, linewidth=1.1)
        left.set_xscale("log")
        left.set_ylim(2.1, 3.35)
        plots.plain_log(left)
        left.legend(title="FLOPs", fontsize=7, ncol=2, title_fontsize=8)
        left.set(xlabel="parameters", ylabel="loss (nats a token)", title=f"approach 3 on {name}")
        c = np.geomspace(5e18, 1e24, 40)
        spread = np.stack([optimal(draws.law(1), x).params for x in c])
        right.fill_between(c, *np.quantile(spread, [0.025, 0.975], axis=1), color=plots.BLUE, alpha=0.2, linewidth=0)
        right.plot(c, np.median(spread, axis=1), color=plots.BLUE, linewidth=1.5, label="approach 3, ours (95 %)")
        right.plot(c, [optimal(Chinchilla.published(), x).params[0] for x in c], color=plots.INK, linewidth=1.2, linestyle="--", label="Hoffmann's approach 3")
        at = isoflop(runs, parabola, budgets=BUDGETS, apart=1.25)
        right.plot(at.compute_c, at.params_c, "*", color=plots.ORANGE, markersize=8, markeredgecolor="white", label="approach 2, parabola")
        right.plot(c, at.params(c), color=plots.ORANGE, linewidth=1)
        right.plot(GOPHER, 70e9, "D", color=plots.GREEN, markersize=6, label="Chinchilla as trained")
        right.set(xscale="log", yscale="log", xlabel="training FLOPs", ylabel="optimal parameters")
        right.legend(fontsize=8)
        plots.save(figure, HERE / "plot.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", required=True)
    parser.add_argument("--all-points")
    options = parser.parse_args()
    shared = read_csv(options.runs, {"params": "N", "tokens": "D", "flops": "C"})
    sets = {"234 shared points": shared}
    if options.all_points:
        sets["245 points without the 5 highest losses"] = all_points(options.all_points).drop_highest(5)
    results = {"papers": {n: described(law) for n, law in PAPERS.items()}, "points": {n: three(r) for n, r in sets.items()}}
    measure.save(HERE, results, table(results))
    picture(list(sets.values())[-1], list(sets)[-1])
    print(table(results))


if __name__ == "__main__":
    main()
