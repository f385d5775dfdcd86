"""Clark et al. 2022's law of routed models on their final losses.

    python -m experiments.routed_scaling.run --runs final_losses.csv

The last step of each run of github.com/google-deepmind/scaling_laws_for_routing, data/curves.csv.gz (CC-BY-4.0), with its column names.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from effllm.scaling import LogSquares, Routed, Runs, bootstrap, fit, holdout, plots, read_csv
from experiments.speed import measure

HERE = Path(__file__).parent
NAMES = ("a", "b", "c", "d", "E_start", "E_max")
PAPER = {
    "S-Base": (-0.082, -0.108, 0.009, 1.104, 1.847, 314.478),
    "RL-R": (-0.083, -0.126, 0.012, 1.111, 1.880, 469.982),
    "Hash": (-0.087, -0.136, 0.012, 1.157, 4.175, 477.741),
}  # fmt: skip


def main_runs(file: str) -> tuple[Runs, np.ndarray]:
    """The 163 runs of the main law (half of the layers routed, one expert a token, seed 42) and their routers."""
    runs = read_csv(file, {"params": "dense_parameter_count", "experts": "num_experts", "loss": "loss_validation", "tokens": "step"})
    with open(file, newline="") as opened:
        rows = list(csv.DictReader(opened))
    keep = np.array([float(r["routing_frequency"]) == 0.5 and float(r["k"]) == 1 and r["seed"] == "42" for r in rows])
    return runs.where(keep), np.array([r["router_type"] for r in rows])[keep]


def analyse(runs: Runs, router: np.ndarray) -> dict:
    found = {}
    for name in PAPER:
        own = runs.where((router == name) | (router == "Dense"))
        fitted = fit(Routed, own, loss=LogSquares())
        draws = bootstrap(fitted, 1000)
        largest = int((own["params"] == own["params"].max()).sum())
        out = holdout(Routed, own, largest, by="params", loss=LogSquares())
        paper = Routed(*PAPER[name])
        residual = np.log10(paper(own["params"], own["experts"])) - np.log10(own["loss"])
        found[name] = {
            "runs": own.size, "params": fitted.params, "ci": {n: [i.low, i.high] for n, i in draws.intervals().items()}, "unidentified": draws.unidentified(),
            "converged": fitted.converged, "at_best": fitted.n_starts_at_best, "starts": fitted.n_starts, "draws_converged": draws.converged,
            "rms_log10": fitted.relative_rms / np.log(10), "paper_rms_log10": float(np.sqrt(np.mean(residual**2))),
            "held_out": {"runs": largest, "size": float(own["params"].max()), "mean_error": out.mean_error, "bias": out.bias},
            "effective": {f"{n:.0e}": float(fitted.law.effective_params(n, 64.0)) for n in (1e8, 1e9)},
        }  # fmt: skip
    return found


def table(results: dict) -> str:
    lines = ["| | a | b | c | d | E_start | E_max | rms of log₁₀ L |", "|---|---|---|---|---|---|---|---|"]
    for name, f in results["routers"].items():
        lines.append(f"| {name}, paper (its rms on these runs) | " + " | ".join(f"{v:g}" for v in PAPER[name]) + f" | {f['paper_rms_log10']:.5f} |")
        lines.append("| ours | " + " | ".join(f"{f['params'][n]:.4g}" for n in NAMES) + f" | {f['rms_log10']:.5f} |")
        lines.append("| 95 % of 1,000 draws | " + " | ".join(f"{f['ci'][n][0]:.3g} … {f['ci'][n][1]:.3g}" + (" (not identified)" if n in f["unidentified"] else "") for n in NAMES) + " | |")
    lines.append("")
    for name, f in results["routers"].items():
        h = f["held_out"]
        lines.append(f"- {name}: {f['runs']} runs with the dense ones; {'converged' if f['converged'] else 'NOT CONVERGED'}, {f['at_best']} of {f['starts']} starts, {f['draws_converged']:.1%} of draws. Held out the {h['runs']} runs of {h['size'] / 1e9:.2f} B: "
                     f"mean error {h['mean_error']:.2%}, bias {h['bias']:+.2%}. 64 experts make 0.1 B as good as {f['effective']['1e+08'] / 1e9:.2f} B dense, and 1 B as good as {f['effective']['1e+09'] / 1e9:.2f} B.")  # fmt: skip
    return "\n".join(lines) + "\n"


def picture(runs: Runs, router: np.ndarray) -> None:
    with plots.style():
        figure, axes = plots.panels(3, width=3.5, height=3.3)
        sizes = np.unique(runs["params"])
        colours = plots.matplotlib.colormaps[plots.SIZES]
        for axis, name in zip(axes, PAPER, strict=True):
            own = runs.where((router == name) | (router == "Dense"))
            law = fit(Routed, own, loss=LogSquares()).law
            experts = np.geomspace(1, 512, 100)
            for i, n in enumerate(sizes):
                rows = own["params"] == n
                colour = colours(i / max(1, len(sizes) - 1) * 0.9)
                axis.plot(own["experts"][rows], own["loss"][rows], "o", color=colour, markersize=3.5, markeredgewidth=0, label=f"{n / 1e6:.0f} M" if name == "S-Base" else None)
                axis.plot(experts, law(n, experts), color=colour, linewidth=1.1)
            axis.set_xscale("log", base=2)
            plots.plain_log(axis)
            axis.set(title=name, xlabel="experts", ylabel="validation loss (nats a token)" if name == "S-Base" else "")
        figure.legend(loc="outside right center", title="dense\nparameters", fontsize=8, title_fontsize=8)
        plots.save(figure, HERE / "plot.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", required=True)
    options = parser.parse_args()
    runs, router = main_runs(options.runs)
    results = {"runs": runs.size, "routers": analyse(runs, router)}
    measure.save(HERE, results, table(results))
    picture(runs, router)
    print(table(results))


if __name__ == "__main__":
    main()
