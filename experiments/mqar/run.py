"""Multi-query associative recall: which mixers recall values by their keys, at which width, for how many pairs, and with how large a decoding state.

    python -m experiments.mqar.run                          # 48 minutes of CPU time; writes results.json and plot.png
    python -m experiments.mqar.run --only attention DeltaNet

A row shows P keys, each followed by its value, and then every key once more, at distances that follow a power law; after each the model must say its value. The loss is on
those answers alone. Two layers of the mixer, no feed-forward layers, four learning rates a point. A run that was stopped goes on with the points that are missing.

At the paper's size (Zoology, Arora et al. 2023, arXiv 2312.04927, figure 2: 100,000 rows for 64 epochs), on accelerators, once for each number of pairs:

    mkdir small middle large; PAPER="--vocab 8192 --widths 64 128 256 512 --rows 100000 --tests 3000 --rates 1e-4 4.6e-4 2.2e-3 1e-2"
    python -m experiments.mqar.run $PAPER --points 4x64 8x128 --into small --batch 512 --steps 12500
    python -m experiments.mqar.run $PAPER --points 16x256 --into middle --batch 256 --steps 25000
    python -m experiments.mqar.run $PAPER --points 64x512 --into large --batch 128 --steps 50000
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen

from effllm import nn
from effllm.nn.rebuild import adopt
from effllm.nn.recurrent import RecurrentState, documents
from experiments.mixer_runs import parameters, state_bytes
from experiments.small_runs import Arrays, begun
from experiments.synthetic_runs import asked, bare, distinct, tuned

HERE = Path(__file__).parent
DEPTH = 2


class Convolved(nn.Mixer):
    """inner(conv(x)): a mixer without a short convolution of its own behind one."""

    inner: nn.Mixer
    conv: nn.ShortConv = nn.ShortConv(activation=None)

    def init_state(self, batch, length, width, dtype):
        return RecurrentState.empty(batch, self.inner.init_state(batch, length, width, dtype), self.conv.init_tail(batch, width, dtype))

    @linen.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        now = documents(segment_ids, state)
        x_btd, tail = adopt(self, self.conv, "short_conv")(x_btd, now.segments_bt, None if state is None else state.tails)
        y_btd, inner = adopt(self, self.inner, "mixer")(x_btd, positions=positions, segment_ids=segment_ids, state=None if state is None else state.memory)
        return y_btd, None if state is None else RecurrentState(inner, tail, now.last_b)


def mixers(length: int) -> dict[str, nn.Mixer]:
    """Every arm by name: one head of keys, and a short convolution in each (token shift in RWKV)."""
    conv = nn.ShortConv()
    return {
        "attention": Convolved(nn.Attention(heads=1)),
        "attention, window L/4": Convolved(nn.Attention(heads=1, window=length // 4)),
        "RWKV-4": nn.RWKV4TimeMix(),
        "Hyena": nn.Hyena(length=length),
        "H3": nn.H3(),
        "linear attention": nn.LinearAttention(heads=1, conv=conv),
        "DeltaNet": nn.DeltaNet(heads=1),
        "Gated DeltaNet": nn.GatedDeltaNet(heads=1),
        "RG-LRU": nn.RGLRU(heads=1),
        "GLA": nn.GatedLinearAttention(heads=1, conv=conv),
        "Mamba-2": nn.Mamba2(state=16),
        "Mamba": nn.Mamba(),
        "RWKV-7": nn.RWKV7TimeMix(heads=1),
    }


def recall(rng: np.random.Generator, rows: int, vocab: int, length: int, pairs: int, power: float = 0.01) -> Arrays:
    """Rows k₁ v₁ … k_P v_P, then queries among zeros: each key once, g token pairs behind the last value with p(g) ∝ (g + 1)^(power − 1), all at different g.

    Keys are in [1, V/2), values in [V/2, V), all different within a row; a query's answer is its key's value. Raises ValueError for a row that does not hold all
    pairs twice, and for a vocabulary without as many keys.
    """
    space, half = (length - 2 * pairs) // 2, vocab // 2
    if space < pairs or half - 1 < pairs:
        raise ValueError(f"points={pairs}x{length}: {pairs} pairs need a length of at least {4 * pairs} and --vocab {2 * pairs + 2}")
    keys_np = 1 + distinct(rng, rows, np.ones(half - 1), pairs)
    values_np = half + distinct(rng, rows, np.ones(vocab - half), pairs)
    places_np = 2 * pairs + 2 * distinct(rng, rows, np.arange(1.0, space + 1) ** (power - 1), pairs)
    tokens_nt, answers_nt = np.zeros((rows, length), np.int64), np.full((rows, length), -1)
    tokens_nt[:, 0 : 2 * pairs : 2], tokens_nt[:, 1 : 2 * pairs : 2] = keys_np, values_np
    np.put_along_axis(tokens_nt, places_np, keys_np, axis=1)
    np.put_along_axis(answers_nt, places_np, values_np, axis=1)
    return asked(tokens_nt, answers_nt)


def point(text: str) -> tuple[int, int]:
    """(pairs, length) of "4x32". Raises ValueError for anything else."""
    pairs, by, length = text.partition("x")
    if not (by and pairs.isdigit() and length.isdigit()):
        raise ValueError(f"--points {text}: give pairs x length, such as 4x32")
    return int(pairs), int(length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=64, help="half of it keys, half values (default 64; the paper has 8192)")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32], help="model widths (default 16 32)")
    parser.add_argument("--points", nargs="+", default=["4x32", "8x64"], help="pairs x length (default 4x32 8x64)")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3.2e-3, 1e-2, 3.2e-2], help="learning rates, all tried at each point (default 1e-3 to 3.2e-2)")
    for name, default, meaning in (
        ("batch", 32, "rows a step"), ("rows", 20000, "training rows"), ("steps", 500, "steps of each run"), ("seeds", 2, "seeds at the best learning rate"),
        ("tests", 512, "test rows"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning} (default {default})")
    parser.add_argument("--only", nargs="*", default=[], choices=list(mixers(1)), metavar="ARM", help=f"some of {', '.join(mixers(1))} (default all)")
    parser.add_argument("--into", type=Path, default=HERE, help="folder of results.json and plot.png (default this experiment's)")
    args = parser.parse_args()
    results = begun(args.into, {name: value for name, value in vars(args).items() if name not in ("only", "into")})
    for text, width, name in itertools.product(reversed(args.points), args.widths, mixers(1)):  # a run that is cut short has all mixers at one point
        label, (pairs, length) = f"{name} | {width} | {text}", point(text)
        if label in results["arms"] or (args.only and name not in args.only):
            continue
        rng, mixer, start = np.random.default_rng(0), mixers(length)[name], time.process_time()
        data, test = (recall(rng, count, args.vocab, length, pairs) for count in (args.rows, args.tests))
        model = bare(mixer, args.vocab, width, DEPTH)
        arm = tuned(model, data, test, args.steps, args.batch, args.rates, range(args.seeds))
        results["arms"][label] = arm | {
            "mixer": name, "width": width, "pairs": pairs, "length": length, "parameters": parameters(model),
            "state bytes": DEPTH * state_bytes(mixer, length, width), "cpu seconds": time.process_time() - start,
        }  # fmt: skip
        print(f"{label}: recall {arm['mean']:.3f} at {arm['rate']:g} {arm['tried']}, {results['arms'][label]['cpu seconds']:.0f} s", flush=True)
        (args.into / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    plot(results, args.into)


def table(results: dict[str, Any]) -> str:
    """The README's tables: recall with its best learning rate by mixer and point, and state bytes by mixer and width."""
    points = [(width, text) for text in results["points"] for width in results["widths"]]
    lines = [f"| | {' | '.join(f'd = {width}, {text}' for width, text in points)} |", "|---" * (1 + len(points)) + "|"]
    for name in mixers(1):
        arms = [results["arms"].get(f"{name} | {width} | {text}") for width, text in points]
        if any(arms):
            cells = (f"{a['mean']:.3f} ± {a['std']:.3f}, {a['rate']:g}, {a['state bytes'] / 1e3:,.1f} kB" if a else "not run" for a in arms)
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(results: dict[str, Any], folder: Path) -> None:
    """Recall over width for each point, and over the state's bytes, there with a bar from the worst seed to the best."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    points, found = results["points"], list(results["arms"].values())
    states = [arm["state bytes"] for arm in found]
    fig, axes = plt.subplots(2, len(points), figsize=(2.5 + 4 * len(points), 7.5), layout="constrained", sharey=True, squeeze=False)
    for number, name in enumerate(mixers(1)):
        style = {"color": plt.get_cmap("tab20")(number % 20), "marker": "osD^vP*X<>hpd"[number % 13], "ms": 6, "lw": 1.2}
        for column, text in enumerate(points):
            arms = [a for a in found if a["mixer"] == name and f"{a['pairs']}x{a['length']}" == text]
            if not arms:
                continue
            for axis, what in zip(axes[:, column], ("width", "state bytes")):
                axis.plot([a[what] for a in arms], [a["mean"] for a in arms], label=name, **style)
            axes[1, column].vlines([a["state bytes"] for a in arms], [min(a["values"]) for a in arms], [max(a["values"]) for a in arms], color=style["color"], lw=1)
    for column, text in enumerate(points):
        pairs, length = point(text)
        axes[0, column].set(title=f"{pairs} pairs in {length} tokens", xlabel="width", xscale="log", xticks=results["widths"], xticklabels=results["widths"])
        axes[0, column].minorticks_off()
        axes[1, column].set(xlabel="decoding state, bytes", xscale="log", xlim=(0.7 * min(states), 1.4 * max(states)))
        axes[1, column].xaxis.set_minor_formatter("")
    for row in axes:
        row[0].set(ylabel="share of values recalled", ylim=(-0.03, 1.05))
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    handles = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels())}
    named = [name for name in mixers(1) if name in handles]
    fig.legend([handles[name] for name in named], named, loc="outside right center", frameon=False)
    fig.savefig(folder / "plot.png", dpi=110)


if __name__ == "__main__":
    main()
