"""Every mixer at equal parameters and equal tokens on the embedded corpus: bits a byte, tokens a second, decoding state.

    python -m experiments.language_by_mixer.run             # about two hours on one core, one arm after another; a stopped run goes on
    python -m experiments.language_by_mixer.run --steps 20000 --seeds 5       # a size for an accelerator
"""

import argparse
import json
from pathlib import Path

from effllm import nn
from experiments.mixer_runs import DEPTH, LENGTH, mixers, parameters, sized, state_bytes, tuned
from experiments.small_runs import begun

HERE = Path(__file__).parent
RATES = (2e-3, 6e-3)
FAR = 4096  # the longest text that every mixer takes at its defaults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150, help="training steps of each run (default 150)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds at the best learning rate (default 3)")
    parser.add_argument("--only", nargs="*", default=[], help="mixers by class name (default all)")
    args = parser.parse_args()
    budget = parameters(sized(nn.Attention(heads=4)))
    results = begun(HERE, {"steps": args.steps, "seeds": args.seeds, "rates": list(RATES), "budget": budget})
    for name, mixer in mixers().items():
        if name in results["arms"] or not mixer.causal or (args.only and name not in args.only):
            continue
        arm = tuned(sized(mixer, budget), args.steps, range(args.seeds), RATES)
        results["arms"][name] = arm | {"state bytes": {length: DEPTH * state_bytes(mixer, length) for length in (LENGTH, FAR)}}
        print(f"{name}: {arm['mean']:.3f} ± {arm['std']:.3f} bits a byte, {arm['tokens_per_second']:,.0f} tokens/s", flush=True)
        (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    plot(results)


def table(results: dict) -> str:
    """The README's table, best first."""
    lines = ["| mixer | bits a byte | learning rate | parameters | tokens/s | state at 256, kB | at 4,096, kB |", "|---|---|---|---|---|---|---|"]
    for name, arm in sorted(results["arms"].items(), key=lambda item: item[1]["mean"]):
        short, long = arm["state bytes"].values()
        lines.append(
            f"| {name} | {arm['mean']:.3f} ± {arm['std']:.3f} | {arm['rate']:g} | {arm['parameters']:,} | {arm['tokens_per_second']:,.0f} "
            f"| {short / 1e3:,.1f} | {long / 1e3:,.1f} |"
        )
    return "\n".join(lines)


def plot(results: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    arms = sorted(results["arms"].items(), key=lambda item: item[1]["mean"])
    fig, axes = plt.subplots(1, 2, figsize=(11, 0.22 * len(arms) + 1.5), layout="constrained", sharey=True)
    axes[0].errorbar([a["mean"] for _, a in arms], range(len(arms)), xerr=[a["std"] for _, a in arms], fmt="o", ms=4, color="#4878a8")
    axes[0].set(yticks=range(len(arms)), yticklabels=[name for name, _ in arms], xlabel="held-out bits a byte")
    axes[0].invert_yaxis()
    # Hollow and larger, the shorter text's point stays in sight around the longer's, where the state does not grow.
    for length, size, face, color in ((str(LENGTH), 36, "none", "#589050"), (str(FAR), 10, "#c06030", "#c06030")):
        sizes = [{str(k): v for k, v in a["state bytes"].items()}[length] / 1e3 for _, a in arms]
        axes[1].scatter(sizes, range(len(arms)), s=size, facecolors=face, edgecolors=color, label=f"{int(length):,} tokens")
    axes[1].set(xscale="log", xlabel="decoding state, kB a row")
    axes[1].legend(frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", lw=0.3)
    fig.savefig(HERE / "plot.png", dpi=150)


if __name__ == "__main__":
    main()
