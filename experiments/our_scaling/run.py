"""An isoFLOP study of effllm's own byte-level decoder on the embedded corpus, small enough for two CPU cores and an hour.

    python -m experiments.our_scaling.run            trains what is lacking, one run after another (runs/our_scaling.jsonl keeps each), then fits
    python -m experiments.our_scaling.run --report   only fits what is there and writes the table and the picture
"""

import argparse
import datetime
import itertools
import json
import time
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from effllm.cli.rundir import hardware
from effllm.config import Experiment, assemble
from effllm.data import Data, Embedded, prepare
from effllm.evaluate import Cost, held_out
from effllm.nn import Attention, Block, DecoderLM, SwiGLU
from effllm.scaling import Chinchilla, OverTraining, Runs, akima, bias, bootstrap, fit, holdout, isoflop, optimal, parabola, plots
from effllm.shard import MeshShape
from effllm.train import AdamW, Cosine
from effllm.train import run as train
from experiments.speed import measure

HERE = Path(__file__).parent
RESULTS, PROGRESS = HERE / "results.json", Path("runs/our_scaling.jsonl")
LENGTH, BATCH, EVAL_BATCHES = 128, 8, 128
SHAPES = ((32, 2), (48, 2), (64, 2), (80, 3), (112, 3), (144, 3), (192, 4))  # width, depth: 0.04 to 1.9 M parameters
BUDGETS = {9e11: SHAPES[:4], 2e12: SHAPES[1:6], 4.5e12: SHAPES[2:]}
HELD_OUT, HELD_OUT_SHAPES = 1e13, SHAPES[2:5]
REPEATED = (2e12, SHAPES[3], (1, 2))  # further seeds of one run: the noise
PLAN = [
    *((c, s, 0) for c, shapes in BUDGETS.items() for s in shapes),
    *((REPEATED[0], REPEATED[1], seed) for seed in REPEATED[2]),
    *((HELD_OUT, s, 0) for s in HELD_OUT_SHAPES),
]  # fmt: skip


def experiment(shape: tuple[int, int], steps: int, seed: int) -> Experiment:
    """One run: heads of 16, a cosine as long as the run, a peak rate that falls with the root of width."""
    width, depth = shape
    return Experiment(
        model=DecoderLM(vocab_size=256, width=width, depth=depth, blocks=(Block(Attention(heads=width // 16), SwiGLU()),)),
        data=Data(source=Embedded(), sequence_length=LENGTH, batch_size=BATCH),
        optimizer=AdamW(learning_rate=6e-3 * (64 / width) ** 0.5, schedule=Cosine(warmup=max(10, steps // 20))),
        mesh=MeshShape(data=1), steps=steps, seed=seed,
    )  # fmt: skip


def one(budget: float, shape: tuple[int, int], seed: int) -> dict:
    """Train a run of `budget` FLOPs by effllm's own count and score it on the same held-out batches as all others."""
    base = assemble(experiment(shape, 1, seed), jax.devices()[:1])
    cost = Cost.of(base.experiment.model, base.abstract.params, LENGTH)
    steps = max(1, round(budget / (cost.training_flops * BATCH * LENGTH)))
    program = assemble(experiment(shape, steps, seed), jax.devices()[:1])
    dataset = prepare(program.experiment.data)
    began = time.perf_counter()
    with program.train_batches(dataset, 0) as batches, tqdm(total=steps, desc=f"{budget:.1e} FLOPs, {cost.parameters / 1e6:.2f} M", leave=False) as bar:
        outcome = train(
            program.init(), program.step, map(program.place, batches), start=0, steps=steps, log_every=max(1, steps // 20),
            show=lambda record: bar.update(record["step"] - bar.n),
        )  # fmt: skip
    seconds = time.perf_counter() - began
    if outcome.stopped:
        raise SystemExit(f"stopped by {outcome.stopped}; the same command goes on with this run")
    split = dataset.manifest["splits"]["held_out"]
    quality = held_out(program.loss, outcome.state.params, program.held_out_batches(dataset, EVAL_BATCHES), split["bytes"] / split["tokens"])
    return {
        "budget": budget, "width": shape[0], "depth": shape[1], "seed": seed, "params": cost.parameters, "tokens": steps * BATCH * LENGTH, "steps": steps,
        "flops": cost.training_flops * steps * BATCH * LENGTH, "loss": quality.loss, "bits_per_byte": quality.bits_per_byte, "seconds": seconds,
        "corpus": dataset.manifest["fingerprint"][:16], "train_bytes": dataset.manifest["splits"]["train"]["bytes"],
    }  # fmt: skip


def key(record: dict) -> tuple:
    """What a run of the plan is known by."""
    return record["budget"], record["width"], record["depth"], record["seed"]


def columns(records: list[dict]) -> Runs:
    return Runs({n: np.array([r[n] for r in records], float) for n in ("params", "tokens", "loss", "flops")})


def analyse(records: list[dict]) -> dict:
    """Approach 2, the parametric fits, and the prediction of the held-out budget by what the smaller ones say."""
    small = [r for r in records if r["budget"] < HELD_OUT]
    large = [r for r in records if r["budget"] == HELD_OUT]
    runs, grid = columns(small), columns([r for r in small if r["seed"] == 0])
    found: dict = {"isoflop": {}, "laws": {}}
    for method in (parabola, akima):
        try:
            at = isoflop(grid, method, apart=1.3)
        except ValueError as error:
            found["isoflop"][method.__name__] = {"refused": str(error)}
            continue
        found["isoflop"][method.__name__] = {
            "exponent": at.params.exponent, "low": at.params.low, "high": at.params.high, "flops": at.compute_c.tolist(), "params": at.params_c.tolist(),
            "tokens_per_param": (at.tokens_c / at.params_c).tolist(), "left_out": len(at.left_out),
        }  # fmt: skip
    for law in (Chinchilla, OverTraining):
        fitted = fit(law, runs)
        draws = bootstrap(fitted, 1000)
        entry = fitted.to_json() | {"ci": {n: [i.low, i.high] for n, i in draws.intervals().items()}, "unidentified": draws.unidentified()}
        plan, spread = optimal(fitted.law, HELD_OUT), optimal(draws.law(1), HELD_OUT)
        interval = draws.interval(spread.params)
        entry["optimum_at_held_out"] = {"params": float(plan.params[0]), "low": interval.low, "high": interval.high, "loss": float(plan.loss[0])}
        if large:
            out = holdout(law, columns(small + large), len(large), draws=300)
            entry["held_out"] = {"params": out.runs["params"].tolist(), "measured": out.runs["loss"].tolist(), "predicted": out.predicted_n.tolist(),
                                 "low": out.low_n.tolist(), "high": out.high_n.tolist(), "mean_error": out.mean_error, "bias": out.bias, "reach": out.reach}  # fmt: skip
        try:
            entry["bias_of_akima"] = bias(fitted.law, grid, akima, apart=1.3)
        except ValueError as error:
            entry["bias_of_akima"] = str(error)
        found["laws"][law.__name__] = entry
    seeds = [r["loss"] for r in records if (r["budget"], (r["width"], r["depth"])) == REPEATED[:2]]
    found["noise"] = {"losses": seeds, "relative_std": float(np.std(np.log(seeds), ddof=1)) if len(seeds) > 1 else None}
    return found


def table(results: dict) -> str:
    """The README's part that a run writes."""
    records, found = results["runs"], results.get("analysis")
    minutes = sum(r["seconds"] for r in records) / 60
    lines = [f"{results['hardware']}; {', '.join(f'{k} {v}' for k, v in results['versions'].items())}; {results['date']}. "
             f"{len(records)} of {len(PLAN)} runs, {minutes:.0f} minutes of training.", ""]  # fmt: skip
    sizes = sorted({r["params"] for r in records})
    lines += ["Held-out loss (nats a byte), seed 0; **bold** is the best of a budget.", "", "| FLOPs | " + " | ".join(f"{n / 1e6:.2f} M" for n in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for budget in (*BUDGETS, HELD_OUT):
        losses = {r["params"]: r["loss"] for r in records if r["budget"] == budget and r["seed"] == 0}
        if losses:
            best = min(losses.values())
            cells = [("" if n not in losses else f"**{losses[n]:.4f}**" if losses[n] == best else f"{losses[n]:.4f}") for n in sizes]
            lines.append(f"| {budget:.1e} | " + " | ".join(cells) + " |")
    if not found:
        return "\n".join([*lines, "", "The study is not finished: no fit yet."]) + "\n"
    noise = found["noise"]["relative_std"]
    lines += ["", "Noise between seeds: " + ("not measured" if noise is None else f"{noise:.2%} of the loss ({len(found['noise']['losses'])} seeds of one run)") + ".", ""]
    lines += ["| | N* ∝ C^a | ours (95 %) |", "|---|---|---|", "| Hoffmann et al., approach 2 | 0.49 | |", "| Kaplan et al. | 0.73 | |"]
    for name, at in found["isoflop"].items():
        lines.append(f"| isoFLOP, {name} | | " + (at["refused"] if "refused" in at else f"{at['exponent']:.3f} ({at['low']:.2f} … {at['high']:.2f})") + " |")
    chinchilla = found["laws"]["Chinchilla"]["params"]
    lines += [f"| parametric, β/(α+β) | | {chinchilla['beta'] / (chinchilla['alpha'] + chinchilla['beta']):.3f} |", ""]
    for name, law in found["laws"].items():
        ci = law["ci"]
        values = ", ".join(f"{n} = {v:.4g} ({ci[n][0]:.3g} … {ci[n][1]:.3g})" for n, v in law["params"].items())
        lines.append(f"{name}: {values}; {'converged' if law['converged'] else 'NOT CONVERGED'}, {law['n_starts_at_best']} of {law['n_starts']} starts, residuals {law['relative_rms']:.2%} rms"
                     + (f"; not identified: {', '.join(law['unidentified'])}" if law["unidentified"] else "") + ".")  # fmt: skip
        if "held_out" in law:
            out = law["held_out"]
            rows = "; ".join(f"{n / 1e6:.2f} M: {m:.4f} measured, {p:.4f} predicted ({100 * (p / m - 1):+.2f} %)" for n, m, p in zip(out["params"], out["measured"], out["predicted"], strict=True))
            lines.append(f"Held out, {HELD_OUT:.1e} FLOPs, {out['reach']:.1f} times the largest fitted run: **mean error {out['mean_error']:.2%}**, bias {out['bias']:+.2%}. {rows}.")
        lines.append("")
    return "\n".join(lines)


def picture(records: list[dict]) -> None:
    """isoFLOP curves beside measured over predicted."""
    runs = columns([r for r in records if r["seed"] == 0])
    large = sum(r["budget"] == HELD_OUT for r in records)
    out = holdout(Chinchilla, runs, large) if large else None
    with plots.style():
        figure, axes = plots.panels(2 if out else 1)
        budgets = sorted({r["budget"] for r in records})
        for colour, budget in zip(itertools.cycle(plots.COLOURS), budgets):
            rows = sorted((r["params"], r["loss"]) for r in records if r["budget"] == budget and r["seed"] == 0)
            n, loss = np.array(rows).T
            axes[0].plot(n, loss, "o", color=colour, markersize=4.5, label=f"{budget:.1e} FLOPs")
            if out:
                at = columns([r for r in records if r["budget"] == budget])
                per_token = float(np.mean(at.flops / at["tokens"] / at["params"]))
                sizes = np.geomspace(runs["params"].min(), runs["params"].max(), 80)
                axes[0].plot(sizes, out.fit.law(sizes, budget / (per_token * sizes)), color=colour, linewidth=1, linestyle="--" if budget == HELD_OUT else "-")
        axes[0].set_xscale("log")
        axes[0].set(xlabel="parameters", ylabel="held-out loss (nats a byte)", title="lines: Chinchilla fit without the largest budget" if out else "")
        axes[0].legend(fontsize=8)
        if out:
            used = out.fit.runs
            axes[1].axhline(0, color=plots.INK, linewidth=0.9)
            axes[1].plot(used.flops, 100 * (used["loss"] / out.fit.predict(used) - 1), "o", color=plots.MUTED, markersize=4.5, label="fitted")
            axes[1].plot(out.runs.flops, 100 * (out.runs["loss"] / out.predicted_n - 1), "o", color=plots.ORANGE, markersize=5.5, label="held out")
            axes[1].set_xscale("log")
            axes[1].set(xlabel="training FLOPs", ylabel="measured over predicted − 1 (%)")
            axes[1].legend()
        plots.save(figure, HERE / "plot.png")


def report(results: dict) -> None:
    """Fit when every run is there, then write results.json, the README's table and the picture."""
    if len(results["runs"]) == len(PLAN):
        results["analysis"] = analyse(results["runs"])
    measure.save(HERE, results, table(results))
    if results["runs"]:
        picture(results["runs"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--at-most", type=int, default=len(PLAN), metavar="K", help="train only the next K runs")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": []}
    results = {"hardware": hardware(), "versions": measure.versions("effllm", "jax", "flax"), "date": datetime.date.today().isoformat()} | results
    known = {key(r): r for r in results["runs"]}
    if PROGRESS.exists():
        known |= {key(r): r for r in map(json.loads, PROGRESS.read_text().splitlines())}
    PROGRESS.parent.mkdir(exist_ok=True)
    lacking = [(c, s, seed) for c, s, seed in PLAN if (c, *s, seed) not in known]
    for budget, shape, seed in [] if options.report else lacking[: options.at_most]:
        record = one(budget, shape, seed)
        known[key(record)] = record
        with PROGRESS.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)
    results["runs"] = [known[(c, *s, seed)] for c, s, seed in PLAN if (c, *s, seed) in known]
    if options.report or len(results["runs"]) == len(PLAN):
        report(results)
    print(table(results))


if __name__ == "__main__":
    main()
