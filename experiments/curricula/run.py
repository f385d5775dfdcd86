"""Sequence-length warm-up, competence, random-LTD and no curriculum: loss against tokens and against time, and stability at four times the learning rate.

    python -m experiments.curricula.run            # about ten minutes on two cores; writes results.json and plot.png
"""

import json
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from effllm.data import Embedded
from effllm.data.curriculum import Competence, LengthWarmup, ease_first, paced_batch, rarity, shortened, unigram
from effllm.nn import Attention, DecoderLM, RandomLTD, SwiGLU
from experiments.small_runs import BLOCK, LENGTH, ROWS, Arrays, begun, held_out, packed, rows, shuffled, spread, train

HERE = Path(__file__).parent
STEPS, SEEDS, RATE, FACTOR, SPIKE = 100, (0, 1, 2), 4e-3, 4, 1.2
TOKENS = STEPS * ROWS * LENGTH
WARMUP = LengthWarmup(LENGTH, 32, steps=60, multiple=32)
PLAIN = DecoderLM(vocab_size=256, width=64, depth=4, blocks=(BLOCK,) * 4)


def dropping(keep: float) -> DecoderLM:
    """The middle two of four layers see a share of the tokens."""
    middle = RandomLTD(Attention(heads=4), SwiGLU(), keep=keep)
    return PLAIN.clone(blocks=(BLOCK, middle, middle, BLOCK))


def ltd_at(step: int) -> DecoderLM:
    """Half of the tokens for a third of the steps, three quarters for a third, then all: a linear schedule in three shapes."""
    third = 3 * step // STEPS
    return PLAIN if third >= 2 else dropping((0.5, 0.75)[third])


def lengthening(data: Arrays, seed: int) -> Iterator[Arrays]:
    """Batches cut to the length of their step."""
    for step, batch in enumerate(shuffled(data, seed)):
        yield shortened(batch, WARMUP(step))


def paced(data: Arrays, seed: int) -> Iterator[Arrays]:
    """Rows of rare bytes last, by competence over 60 % of the steps."""
    logp = unigram(jnp.asarray(data["tokens"]), jnp.asarray(data["weights"]), 256)
    order = ease_first(rarity(jnp.asarray(data["tokens"]), jnp.asarray(data["weights"]), logp))
    pacing, step = Competence(start=0.1, duration=0.6), 0
    while True:
        yield rows(data, np.asarray(paced_batch(seed, step, order, pacing(step, STEPS), ROWS)))
        step += 1


def steps_of_warmup() -> int:
    """Steps until the warm-up arm has read as many tokens as the others."""
    read, step = 0, 0
    while read < TOKENS:
        read, step = read + ROWS * WARMUP(step), step + 1
    return step


def one(arm: str, rate: float, seed: int, data: Arrays, test: Arrays) -> dict:
    """A run: its curve (tokens, seconds, held-out loss) and how often the training loss jumped."""
    batches = {"length warm-up": lengthening, "competence": paced}.get(arm, shuffled)(data, seed)
    steps = steps_of_warmup() if arm == "length warm-up" else STEPS
    curve: list[tuple[float, float, float]] = []
    read = np.cumsum([ROWS * (WARMUP(t) if arm == "length warm-up" else LENGTH) for t in range(steps)])
    params, history = train(
        batches, steps, seed=seed, model=PLAIN, rate=rate, model_at=ltd_at if arm == "random-LTD" else None, every=25,
        look=lambda step, params, seconds: curve.append((float(read[step - 1]), seconds, held_out(params, test, PLAIN))),
    )  # fmt: skip
    loss = np.array([m["loss"] for m in history])
    jumps = int(np.sum(loss[1:] > SPIKE * np.minimum.accumulate(loss)[:-1]))
    skipped = int(history[-1]["skipped"])
    return {"curve": curve, "final loss": held_out(params, test, PLAIN), "seconds": curve[-1][1], "jumps": jumps, "skipped": skipped, "steps": steps}


ARMS = ("none", "length warm-up", "competence", "random-LTD")


def main() -> None:
    texts = [d.text for d in Embedded().documents() if d.text.isascii()]
    order = np.random.default_rng(0).permutation(len(texts))
    data, test = packed([texts[i] for i in order[60:360]]), packed([texts[i] for i in order[:60]])
    test = rows(test, np.random.default_rng(1).permutation(len(test["tokens"]))[:256])
    results = begun(HERE, {"steps": STEPS, "tokens": TOKENS, "rate": RATE, "seeds": list(SEEDS), "spike": SPIKE})
    for factor in (1, FACTOR):
        for arm in (arm for arm in ARMS if f"{arm}, {factor}x" not in results["arms"]):
            runs = [one(arm, factor * RATE, seed, data, test) for seed in SEEDS]
            found = {name: spread([run[name] for run in runs]) for name in ("final loss", "seconds", "jumps", "skipped")}
            results["arms"][f"{arm}, {factor}x"] = found | {"steps": runs[0]["steps"], "curve": np.mean([run["curve"] for run in runs], axis=0).tolist()}
            print(arm, factor, found["final loss"], found["seconds"]["mean"], found["jumps"]["mean"], flush=True)
            (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    plot(results)


def plot(results: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 3, figsize=(11.5, 3.2), layout="constrained", sharey=True)
    panels = ((axes[0], 1, 0, "tokens, thousands", 1e-3), (axes[1], 1, 1, "CPU seconds of training", 1), (axes[2], FACTOR, 0, "tokens, thousands", 1e-3))
    for axis, factor, column, label, scale in panels:
        for arm, color in zip(ARMS, ("#444444", "#4878a8", "#c06030", "#589050")):
            curve = np.array(results["arms"][f"{arm}, {factor}x"]["curve"])
            axis.plot(curve[:, column] * scale, curve[:, 2], color=color, label=arm)
        axis.set(xlabel=label, title=f"{factor}× learning rate" if factor > 1 else "learning rate 0.004")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("held-out loss, nats a byte")
    axes[0].legend(frameon=False)
    fig.savefig(HERE / "plot.png", dpi=160)


if __name__ == "__main__":
    main()
