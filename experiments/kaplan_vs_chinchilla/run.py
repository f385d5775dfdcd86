"""Why Kaplan et al. and Hoffmann et al. disagree: Porian et al. 2024's steps, recomputed, and Pearce & Song 2024's conversion.

    python -m experiments.kaplan_vs_chinchilla.run --points isoflop_points.csv --pairs optimal_pairs.csv

Both are tables of github.com/formll/resolving-scaling-law-discrepancies, data/summary_df*.pickle.xz (MIT): the (flops, n, t, loss) behind each isoFLOP curve,
and that code's optima with the standard deviation of ln n*.
"""

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effllm.scaling import Chinchilla, NonEmbedding, Runs, Total, akima, convert, isoflop, optimal, parabola, plots, regress
from experiments.speed import measure

HERE = Path(__file__).parent
STEPS = {
    "Kaplan's setup": ("base", "long", "kaplan", "kaplan"),
    "+ FLOPs of the last layer counted": ("base", "long", "kaplan", "standard"),
    "+ warm-up as long as the model is large": ("base", "short", "kaplan", "standard"),
    "+ a decay that fits each budget": ("base", "short", "chinchilla", "standard"),
    "+ tuned learning rate, batch and β₂, constant rate": ("tuned", "short", "const", "standard"),
}  # fmt: skip
DATA = {"rw": "RefinedWeb", "owt2": "OpenWebText2"}
CONSTANTS = {"Besiroglu's constants": Chinchilla(), "Hoffmann's constants": Chinchilla.published()}
KAPLAN_SIZES = (768.0, 1.5e9)  # parameters without embeddings of Kaplan's smallest and largest models


def rows_of(file: str) -> list[dict]:
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def matching(rows: list[dict], data: str, step: tuple[str, ...]) -> list[dict]:
    files = ("summary_df", "summary_df_owt2")
    return [r for r in rows if r["file"] in files and (r["dataset"], r["hparams"], r["warmup"], r["decay"], r["param_count"]) == (data, *step)]


def exponents(points: list[dict], pairs: list[dict]) -> dict:
    """a of N* ∝ C^a: by the stored optima weighted as stored, and by our minima of the raw curves."""
    found: dict = {}
    usable = [r for r in pairs if r["n"] and r["n_star_std"] and float(r["n_star_std"]) > 0]
    if len(usable) > 2:
        compute, n, std = (np.array([float(r[k]) for r in usable]) for k in ("flops", "n", "n_star_std"))
        at = regress(compute, n, 1 / std**2)
        found["stored"] = {"exponent": at.exponent, "low": at.low, "high": at.high, "budgets": len(usable)}
    if points:
        runs = Runs({k: np.array([float(r[c]) for r in points]) for k, c in (("params", "n"), ("tokens", "t"), ("flops", "flops"), ("loss", "loss"))})
        for method in (akima, parabola):
            at = isoflop(runs, method, noise=0.002, draws=100)
            found[method.__name__] = {"exponent": at.params.exponent, "low": at.params.low, "high": at.params.high, "budgets": len(at.compute_c), "left_out": len(at.left_out)}
            if method is akima:
                found["optima"] = {"flops": at.compute_c.tolist(), "params": at.params_c.tolist()}
    return found


@dataclass(frozen=True)
class WithoutEmbeddings:
    """A law of all parameters as a function of those without embeddings."""

    law: Chinchilla
    inputs = ("params", "tokens")

    def __call__(self, params, tokens):
        return self.law(convert(params, NonEmbedding(), Total()), tokens)


def pearce(law: Chinchilla) -> dict:
    """The slope that Kaplan's way of counting sees if `law` is true: the best N without embeddings at each C = 6ND without embeddings, over budgets whose
    optima span Kaplan's models."""
    budgets = np.geomspace(1e9, 1e24, 400)
    counted = WithoutEmbeddings(law)
    params = np.array([optimal(counted, c).params[0] for c in budgets])
    seen = (params >= KAPLAN_SIZES[0]) & (params <= KAPLAN_SIZES[1])
    return {"without_embeddings": regress(budgets[seen], params[seen]).exponent, "total": law.beta / (law.alpha + law.beta)}


def table(results: dict) -> str:
    lines = ["| N* ∝ C^a | " + " | ".join(f"{name}: stored optima, weighted | ours, Akima | ours, parabola" for name in DATA.values()) + " |", "|---" * (1 + 3 * len(DATA)) + "|",
             "| paper | ≈ 0.8 falling to ≈ 0.5 in five steps | | | | | |"]  # fmt: skip
    for step in STEPS:
        cells = []
        for data in DATA:
            found = results["steps"][data][step]
            for key in ("stored", "akima", "parabola"):
                at = found.get(key)
                cells.append("" if at is None else f"{at['exponent']:.3f} ({at['low']:.2f} … {at['high']:.2f})")
        lines.append(f"| {step} | " + " | ".join(cells) + " |")
    lines += ["", "If a Chinchilla law is true, what does Kaplan's way of counting (N and C without embeddings, models of 768 to 1.5 B parameters) see? Kaplan et al. found 0.73.", "",
              "| | a in all parameters | a without embeddings |", "|---|---|---|"]  # fmt: skip
    for name, found in results["pearce"].items():
        lines.append(f"| {name} | {found['total']:.3f} | **{found['without_embeddings']:.3f}** |")
    return "\n".join(lines) + "\n"


def picture(results: dict) -> None:
    with plots.style():
        figure, (left, right) = plots.panels(2, width=4.8, height=3.6)
        for colour, (step, found) in zip(plots.COLOURS, results["steps"]["rw"].items()):
            if "optima" in found:
                compute, params = np.array(found["optima"]["flops"]), np.array(found["optima"]["params"])
                left.plot(compute, params, "o", color=colour, markersize=4)
                left.plot(compute, regress(compute, params)(compute), color=colour, linewidth=1.1, label=f"{found['akima']['exponent']:.2f}  {step}")
        left.set(xscale="log", yscale="log", xlabel="training FLOPs", ylabel="optimal parameters (as counted in the step)", title="RefinedWeb")
        left.legend(fontsize=7, loc="upper left")
        left.set_ylim(top=left.get_ylim()[1] * 30)
        names = list(STEPS)
        for offset, (data, colour) in zip((-0.12, 0.12), zip(DATA, plots.COLOURS)):
            for key, marker in (("stored", "s"), ("akima", "o")):
                y = [results["steps"][data][s].get(key, {}).get("exponent", np.nan) for s in names]
                right.plot(np.arange(len(names)) + offset, y, marker + "-", color=colour, markersize=4.5, linewidth=1, alpha=1 if key == "akima" else 0.4,
                           label=f"{DATA[data]}, {'stored optima' if key == 'stored' else 'ours, Akima'}")  # fmt: skip
        right.axhline(0.73, color=plots.INK, linewidth=0.8, linestyle=":")
        right.axhline(0.5, color=plots.INK, linewidth=0.8, linestyle="--")
        right.annotate("Kaplan", (4.2, 0.735), fontsize=8, ha="right", va="bottom")
        right.annotate("Hoffmann", (0.0, 0.495), fontsize=8, va="top")
        right.set(xticks=range(len(names)), xticklabels=[str(i) for i in range(len(names))], xlabel="step", ylabel="exponent a")
        right.legend(fontsize=8)
        plots.save(figure, HERE / "plot.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", required=True)
    parser.add_argument("--pairs", required=True)
    options = parser.parse_args()
    points, pairs = rows_of(options.points), rows_of(options.pairs)
    steps = {d: {name: exponents(matching(points, d, s), matching(pairs, d, s)) for name, s in STEPS.items()} for d in DATA}
    results = {"steps": steps, "pearce": {n: pearce(law) for n, law in CONSTANTS.items()}}
    measure.save(HERE, results, table(results))
    picture(results)
    print(table(results))


if __name__ == "__main__":
    main()
