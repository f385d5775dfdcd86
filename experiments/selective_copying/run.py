"""Selective copying: does the block around a layer matter, or whether the layer itself can select? Three blocks × S4, Hyena's long convolution, and S6.

    python -m experiments.selective_copying.run             # about half an hour on one core, by estimate; writes results.json and plot.png

A row holds M data tokens at random places among noise, then M marks; at the mark number i the model must say the data token number i. What lies between the tokens varies,
so that a filter of fixed taps cannot find them. Two layers, no feed-forward layers. A run that was stopped goes on with the arms that are missing.

At the paper's size (Mamba, Gu & Dao 2023, arXiv 2312.00752, table 1: 4,096 tokens, 16 of them data; rows are drawn once here,
anew at each step there), on accelerators:

    mkdir large; python -m experiments.selective_copying.run --into large --length 4096 --data 16 --vocab 17 --width 64 --batch 64 --rows 100000 --steps 400000 --rates 1e-4
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.mixer_runs import parameters
from experiments.selective_copying.blocks import S4, S6, H3Gate, LongConvolution, MambaGate, NoGate
from experiments.small_runs import Arrays, begun
from experiments.synthetic_runs import asked, bare, distinct, tuned

HERE = Path(__file__).parent
NOISE, MARK = 0, 1
GATES = {"no gate": NoGate, "H3": H3Gate, "Mamba": MambaGate}
PAPER = {
    ("no gate", "S4"): 18.3, ("no gate", "S6"): 97.0, ("H3", "S4"): 57.0, ("H3", "Hyena"): 30.1, ("H3", "S6"): 99.7,
    ("Mamba", "S4"): 56.4, ("Mamba", "Hyena"): 28.4, ("Mamba", "S6"): 99.8,
}  # fmt: skip


def layers(length: int) -> dict:
    """The inner layers by name, for rows of this many tokens."""
    return {"S4": S4(), "Hyena": LongConvolution(length), "S6": S6()}


def copying(rng: np.random.Generator, rows: int, vocab: int, length: int, data: int) -> Arrays:
    """Rows of `length` tokens, `data` of them from [2, V) at random places, the rest noise, and then `data` marks, whose answers are the data tokens in order.

    Raises ValueError where the data tokens do not fit, and for a vocabulary without any.
    """
    if data > length or vocab < 4:
        raise ValueError(f"--data {data} tokens need a --length of at least as many, and --vocab {vocab} at least 4: noise, the mark, and two to tell apart")
    places_nm = np.sort(distinct(rng, rows, np.ones(length), data), axis=1)
    chosen_nm = rng.integers(2, vocab, (rows, data))
    tokens_nt, answers_nt = np.full((rows, length + data), NOISE), np.full((rows, length + data), -1)
    np.put_along_axis(tokens_nt, places_nm, chosen_nm, axis=1)
    tokens_nt[:, length:], answers_nt[:, length:] = MARK, chosen_nm
    return asked(tokens_nt, answers_nt)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, meaning in (
        ("length", 64, "tokens before the marks"), ("data", 4, "tokens to copy"), ("vocab", 10, "noise, the mark, and data"), ("width", 32, "model width"), ("depth", 2, "layers"),
        ("batch", 16, "rows a step"), ("rows", 20000, "training rows"), ("steps", 1200, "steps of each run"), ("seeds", 2, "seeds at the best learning rate"),
        ("tests", 512, "test rows"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning} (default {default})")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-3, 1e-2, 3e-2], help="learning rates, all tried in each arm (default 3e-3 1e-2 3e-2)")
    parser.add_argument("--into", type=Path, default=HERE, help="folder of results.json and plot.png (default this experiment's)")
    args = parser.parse_args()
    results = begun(args.into, {name: value for name, value in vars(args).items() if name != "into"})
    rng = np.random.default_rng(0)
    data, test = (copying(rng, count, args.vocab, args.length, args.data) for count in (args.rows, args.tests))
    inner = layers(args.length + args.data)
    for gate, layer in itertools.product(GATES, inner):
        label = f"{gate} | {layer}"
        if label in results["arms"]:
            continue
        model, start = bare(GATES[gate](inner[layer]), args.vocab, args.width, args.depth), time.process_time()
        arm = tuned(model, data, test, args.steps, args.batch, args.rates, range(args.seeds))
        results["arms"][label] = arm | {"gate": gate, "layer": layer, "parameters": parameters(model), "cpu seconds": time.process_time() - start}
        print(f"{label}: {arm['mean']:.3f} at {arm['rate']:g} {arm['tried']}, {results['arms'][label]['cpu seconds']:.0f} s", flush=True)
        (args.into / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    plot(results, args.into)


def table(results: dict[str, Any]) -> str:
    """The README's table: the paper's figure beside ours."""
    lines = ["| block | layer | paper, % | here, % | learning rate | parameters |", "|---|---|---|---|---|---|"]
    for arm in sorted(results["arms"].values(), key=lambda arm: list(GATES).index(arm["gate"])):
        paper = PAPER.get((arm["gate"], arm["layer"]), "–")
        lines.append(f"| {arm['gate']} | {arm['layer']} | {paper} | {100 * arm['mean']:.1f} ± {100 * arm['std']:.1f} | {arm['rate']:g} | {arm['parameters']:,} |")
    return "\n".join(lines)


def plot(results: dict[str, Any], folder: Path) -> None:
    """Bars by layer within each block, the paper's as hollow marks."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axis = plt.subplots(figsize=(7.5, 4), layout="constrained")
    for number, (layer, color) in enumerate(zip(("S4", "Hyena", "S6"), ("#4878a8", "#589050", "#c06030"))):
        arms = [(place + 0.27 * (number - 1), results["arms"].get(f"{gate} | {layer}"), PAPER.get((gate, layer))) for place, gate in enumerate(GATES)]
        ours = [(x, 100 * arm["mean"], 100 * arm["std"]) for x, arm, _ in arms if arm]
        if ours:
            x, mean, std = zip(*ours)
            axis.bar(x, mean, 0.25, yerr=std, color=color, label=f"{layer}, {results['length']} tokens", error_kw={"lw": 1})
        theirs = [(x, paper) for x, _, paper in arms if paper is not None]
        axis.plot(*zip(*theirs), "D", ms=6, mfc="white", mec=color, label=f"{layer}, the paper's 4,096")
    axis.axhline(100 / (results["vocab"] - 2), color="#999999", lw=0.8, ls=":", label="chance here")
    axis.set(xticks=range(len(GATES)), xticklabels=[f"{gate} block" if gate != "no gate" else gate for gate in GATES], ylabel="tokens copied right, %", ylim=(0, 105))
    axis.spines[["top", "right"]].set_visible(False)
    fig.legend(loc="outside right center", frameon=False)
    fig.savefig(folder / "plot.png", dpi=110)


if __name__ == "__main__":
    main()
