"""Time and memory of attention against the length, with fitted exponents beside theory, and what each form is worth at equal tokens.

    python -m experiments.attention_cost.run                      # about three quarters of an hour of one core, one arm after another; a stopped run goes on
    python -m experiments.attention_cost.run --only quality       # the half whose clock does not matter, while something else runs; --only cost is the other
    python -m experiments.attention_cost.run --longest 65536 --steps 20000 --seeds 5      # a size for an accelerator
"""

import argparse
import json
from pathlib import Path

from effllm import nn
from experiments.mixer_runs import cost, exponent, mixers, sized, tuned
from experiments.small_runs import begun

HERE = Path(__file__).parent
RATES = (2e-3, 6e-3)
WINDOW = 64
# What theory says of time in T; a pattern's own size held fixed.
DECODERS = {
    "MHA": (nn.Attention(heads=4), 2.0), "GQA, 2 groups": (nn.Attention(heads=4, kv_heads=2), 2.0), "MQA": (nn.Attention(heads=4, kv_heads=1), 2.0),
    "MLA": (nn.LatentAttention(heads=4), 2.0), f"window {WINDOW}": (nn.Attention(heads=4, window=WINDOW), 1.0),
    f"StreamingLLM {WINDOW} + 4": (nn.Attention(heads=4, pattern=nn.StreamingLLM(WINDOW, 4)), 1.0),
    f"block-local {WINDOW}": (nn.Attention(heads=4, pattern=nn.BlockLocal(WINDOW)), 1.0), "BigBird 16": (nn.Attention(heads=4, pattern=nn.BigBird(16)), 1.0),
    f"Longformer {WINDOW} + 1": (nn.Attention(heads=4, pattern=nn.Longformer(WINDOW, (0,))), 1.0), "fixed 64, 4": (nn.Attention(heads=4, pattern=nn.Fixed(64, 4)), 2.0),
    "strided 16": (nn.Attention(heads=4, pattern=nn.Strided(16)), 2.0), "dilated 256 / 4": (nn.Attention(heads=4, pattern=nn.Dilated(256, 4)), 1.0),
}  # fmt: skip
LEARNED = {"Reformer": 1.0, "RoutingAttention": 1.5, "SinkhornAttention": 1.0, "ClusteredAttention": 1.0, "EntmaxAttention": 2.0, "HyperAttention": 1.0, "LandmarkAttention": 2.0}
ENCODERS = {"Linformer": 1.0, "Nystromformer": 1.0, "InducedSetAttention": 1.0, "PooledAttention": 2.0, "FNet": 1.0}


def subjects() -> dict[str, tuple[nn.Mixer, float]]:
    """(mixer, theoretical exponent of its time) by name."""
    known = mixers()
    found = DECODERS | {name: (known[name], power) for name, power in LEARNED.items() if name in known}
    return found | {"MHA, both sides": (nn.Attention(heads=4, bidirectional=True), 2.0)} | {name: (known[name], power) for name, power in ENCODERS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=8192, help="longest text of the cost part (default 8192)")
    parser.add_argument("--steps", type=int, default=150, help="training steps of each run (default 150)")
    parser.add_argument("--seeds", type=int, default=2, help="seeds at the best learning rate (default 2)")
    parser.add_argument("--only", choices=("cost", "quality"), help="run one half (default: both)")
    args = parser.parse_args()
    lengths = [length for length in (256 * 2**n for n in range(12)) if length <= args.longest]
    results = begun(HERE, {"lengths": lengths, "steps": args.steps, "seeds": args.seeds, "rates": list(RATES)})
    for name, (mixer, power) in subjects().items():
        arm = results["arms"].setdefault(name, {"theory": power, "causal": mixer.causal})
        if args.only != "quality" and "costs" not in arm:
            # Linformer has a row of parameters for each place of the longest text.
            costs = cost(mixer.clone(length=lengths[-1]) if isinstance(mixer, nn.Linformer) else mixer, lengths)
            arm |= {"costs": costs, "exponent": exponent(costs, "seconds"), "memory exponent": exponent(costs, "bytes")}
            print(f"{name}: T^{arm['exponent']:.2f} (theory {power})", flush=True)
        if args.only != "cost" and "mean" not in arm:
            arm |= tuned(sized(mixer), args.steps, range(args.seeds), RATES)
            print(f"{name}: {arm['mean']:.3f} ± {arm['std']:.3f} bits", flush=True)
        (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    plot(results)


def table(results: dict) -> str:
    """The README's table."""
    last = results["lengths"][-1]
    lines = [f"| | time ∝ Tᵃ, a | theory | memory ∝ Tᵃ, a | ms at T = {last:,} | MB there | bits a byte |", "|---|---|---|---|---|---|---|"]
    for name, arm in results["arms"].items():
        time, memory, ms, mb = ["not run"] * 4
        if "costs" in arm:
            end = arm["costs"][-1]
            time, memory, ms, mb = f"{arm['exponent']:.2f}", f"{arm['memory exponent']:.2f}", f"{1e3 * end['seconds']:,.0f}", f"{end['bytes'] / 1e6:,.0f}"
        bits = f"{arm['mean']:.3f} ± {arm['std']:.3f}{'' if arm['causal'] else ' (masked)'}" if "mean" in arm else "not run"
        lines.append(f"| {name} | {time} | {arm['theory']:g} | {memory} | {ms} | {mb} | {bits} |")
    return "\n".join(lines)


def plot(results: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    whole = {name: arm for name, arm in results["arms"].items() if "costs" in arm and "mean" in arm}
    fig, rows = plt.subplots(2, 3, figsize=(16, 8), layout="constrained", sharex="col")
    for axes, causal in zip(rows, (True, False)):
        shown = {name: arm for name, arm in whole.items() if arm["causal"] == causal}
        for n, (name, arm) in enumerate(shown.items()):
            color = plt.get_cmap("tab10").colors[n % 10]
            style = {"color": color, "ls": "-" if n < 10 else "--", "marker": "os^vDP*X"[n % 8], "ms": 4, "lw": 1.2}
            lengths = [c["length"] for c in arm["costs"]]
            axes[0].loglog(lengths, [1e3 * c["seconds"] for c in arm["costs"]], label=name, **style)
            axes[1].loglog(lengths, [c["bytes"] / 1e6 for c in arm["costs"]], **style)
            place = 1e3 * arm["costs"][-1]["seconds"], arm["mean"]
            axes[2].errorbar(*place, arm["std"], color=color, marker=style["marker"], ms=5)
            # Names stand in a column of their own, in the order of the points, so that none hides another.
            height = (0.5 + sum(other["mean"] < arm["mean"] for other in shown.values())) / len(shown)
            line = {"arrowstyle": "-", "color": color, "lw": 0.5, "shrinkA": 0, "relpos": (0, 0.5)}
            axes[2].annotate(name, place, (1.03, height), textcoords="axes fraction", va="center", fontsize=8, color=color, arrowprops=line)
        axes[0].set(ylabel=f"{'decoders' if causal else 'encoders'}: ms, forward and backward")
        axes[0].legend(fontsize=8, frameon=False, loc="center right", bbox_to_anchor=(-0.15, 0.5))
        axes[1].set(ylabel="temporary MB")
        axes[2].set(xscale="log", ylabel="held-out bits a byte" if causal else "bits of a masked byte, held out")
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
    for axis in rows[1][:2]:
        axis.minorticks_off()
        axis.set_xticks(results["lengths"], [f"{n / 1024:g}k" for n in results["lengths"]])
        axis.set(xlabel="T")
    rows[1][2].set(xlabel=f"ms at T = {results['lengths'][-1]:,}")
    fig.savefig(HERE / "plot.png", dpi=150)


if __name__ == "__main__":
    main()
