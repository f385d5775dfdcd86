"""Muennighoff et al. 2023's data-constrained law on their C4 runs: the published point, a lower minimum, and how flat the valley is.

    python -m experiments.data_constrained.run --runs c4_runs_182.csv

Columns run, params, tokens, unique_tokens, val_loss: the printed outputs of github.com/huggingface/datablations, utils/parametric_fit.ipynb (Apache-2.0).
"""

import argparse
from pathlib import Path

import numpy as np

from effllm.scaling import DataConstrained, Fit, LogHuber, bootstrap, fit, optimal, plots, profile, read_csv
from experiments.speed import measure

HERE = Path(__file__).parent
PUBLISHED = DataConstrained(E=float(np.exp(0.6254804)), A=float(np.exp(6.255414)), B=float(np.exp(7.3049974)))
FIXED = {n: v for n, v in PUBLISHED.values().items() if n not in ("R_D", "R_N")}
GRIDS = {"R_D": np.geomspace(2, 5000, 41), "R_N": np.geomspace(0.3, 300, 41)}
BUDGET, UNIQUE = 1e22, 50e9


def columns(runs):
    return runs["params"], runs["tokens"], runs["unique_tokens"]


def score(law, runs) -> dict:
    """Objective (log-Huber, summed) and R² of a law that was not fitted here."""
    prediction = law(*columns(runs))
    residual = LogHuber().residual(prediction, runs["loss"])
    total = ((runs["loss"] - runs["loss"].mean()) ** 2).sum()
    return {"objective": float(np.sum(LogHuber().rho(residual))), "r2": float(1 - ((prediction - runs["loss"]) ** 2).sum() / total)}


def plan(law) -> dict:
    found = optimal(law, BUDGET, unique_tokens=UNIQUE)
    return {n: float(v[0]) for n, v in found.columns().items()}


def analyse(runs) -> tuple[dict, Fit, dict]:
    fitted = fit(DataConstrained, runs, fixed=FIXED)
    draws = bootstrap(fitted, 300)
    profiles = {n: profile(fitted, n, grid) for n, grid in GRIDS.items()}
    best = profiles["R_D"]
    flat = best.objective_g[(best.value_g >= 15) & (best.value_g <= 200)]
    everything = fit(DataConstrained, runs)
    spread = optimal(draws.law(1), BUDGET, unique_tokens=UNIQUE)
    results = {
        "published": PUBLISHED.values() | score(PUBLISHED, runs) | {"plan": plan(PUBLISHED)},
        "without_decay": score(DataConstrained(**FIXED, R_D=1e9, R_N=1e9), runs),
        "fitted": fitted.params | score(fitted.law, runs) | {"plan": plan(fitted.law), "converged": fitted.converged, "starts": fitted.n_starts, "at_best": fitted.n_starts_at_best},
        "minima": [{"objective": o, "R_D": m["R_D"], "R_N": m["R_N"]} for o, m in fitted.minima],
        "profile": {n: {"low": p.low, "high": p.high, "from": float(p.value_g[0]), "to": float(p.value_g[-1])} for n, p in profiles.items()},
        "rise_of_objective_over_15_to_200": float(flat.max() / flat.min() - 1),
        "bootstrap": {n: {"low": i.low, "high": i.high, "identified": i.identified} for n, i in draws.intervals().items()}, "draws_converged": draws.converged,
        "plan_ci": {n: [float(q) for q in np.quantile(getattr(spread, n), [0.025, 0.975])] for n in ("params", "tokens", "epochs", "loss")},
        "all_seven": everything.params | {"objective": everything.objective, "converged": everything.converged, "condition": everything.condition, "at_best": everything.n_starts_at_best, "starts": everything.n_starts},
    }  # fmt: skip
    return results, fitted, profiles


def ends(entry) -> str:
    return f"{'below ' + format(entry['from'], 'g') if entry['low'] is None else format(entry['low'], '.3g')} … {'above ' + format(entry['to'], 'g') if entry['high'] is None else format(entry['high'], '.3g')}"


def table(results: dict) -> str:
    p, f = results["published"], results["fitted"]
    lines = [
        "| | R_D* | R_N* | objective | R² |", "|---|---|---|---|---|", "| paper | 15.39 | 5.31 | 0.015826 | 0.7722 |",
        f"| the paper's constants, scored by us | {p['R_D']:.2f} | {p['R_N']:.2f} | {p['objective']:.7f} | {p['r2']:.4f} |",
        f"| the paper's law without decay, scored by us (paper: R² 0.4452) | ∞ | ∞ | {results['without_decay']['objective']:.7f} | {results['without_decay']['r2']:.4f} |",
        f"| our minimum over both, E, A, B, α as in the paper | {f['R_D']:.2f} | {f['R_N']:.2f} | {f['objective']:.7f} | {f['r2']:.4f} |", "",
        f"{'Converged' if f['converged'] else 'NOT CONVERGED'}; {f['at_best']} of {f['starts']} starts within 0.1 % of the best. Further minima: "
        + "; ".join(f"R_D* {m['R_D']:.1f}, R_N* {m['R_N']:.2f} ({m['objective']:.7f})" for m in results["minima"][1:]) + ".", "",
        f"Between R_D* = 15 and 200 the profile's objective varies by {results['rise_of_objective_over_15_to_200']:.2%}.", "",
        "| 95 % | profile | bootstrap (300 draws, from every minimum) |", "|---|---|---|",
    ]  # fmt: skip
    for n in ("R_D", "R_N"):
        b = results["bootstrap"][n]
        lines.append(f"| {n}* | {ends(results['profile'][n])} | {b['low']:.3g} … {'above 1e6' if b['high'] > 1e6 else format(b['high'], '.3g')}{'' if b['identified'] else ', **not identified**'} |")
    a, ci = results["all_seven"], results["plan_ci"]
    lines += ["", f"{results['draws_converged']:.0%} of the draws converged. All seven parameters free: {', '.join(f'{n} ' + ('→ ∞' if a[n] > 1e6 else f'= {a[n]:.4g}') for n in ('E', 'A', 'B', 'alpha', 'beta', 'R_D', 'R_N'))}; objective {a['objective']:.7f}, "
              f"condition {a['condition']:.1e}, {'converged' if a['converged'] else 'NOT CONVERGED'}.", "",
              f"What it means for {BUDGET:.0e} FLOPs and {UNIQUE / 1e9:.0f} B unique tokens:", "", "| | parameters | tokens | epochs | loss |", "|---|---|---|---|---|"]  # fmt: skip
    for name, entry in (("the paper's constants", p["plan"]), ("our minimum", f["plan"])):
        lines.append(f"| {name} | {entry['params']:.3g} | {entry['tokens']:.3g} | {entry['epochs']:.2f} | {entry['loss']:.4f} |")
    lines.append("| 95 % of the draws | " + " | ".join(f"{ci[n][0]:.3g} … {ci[n][1]:.3g}" for n in ("params", "tokens")) + f" | {ci['epochs'][0]:.2f} … {ci['epochs'][1]:.2f} | {ci['loss'][0]:.4f} … {ci['loss'][1]:.4f} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", required=True)
    options = parser.parse_args()
    runs = read_csv(options.runs, {"loss": "val_loss"})
    results, fitted, profiles = analyse(runs)
    measure.save(HERE, results, table(results))
    figure = plots.profile_figure(list(profiles.values()), logarithmic=("R_D", "R_N"))
    for axis, value in zip(figure.axes, (PUBLISHED.R_D, PUBLISHED.R_N), strict=True):
        axis.axvline(value, color=plots.INK, linewidth=1, linestyle=":", label="paper")
        axis.legend(fontsize=8, frameon=False)
    plots.save(figure, HERE / "plot.png")
    print(table(results))


if __name__ == "__main__":
    main()
