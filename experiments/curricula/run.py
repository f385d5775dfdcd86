"""Curricula as lines of one experiment: loss against tokens and against time, and stability at four times the learning rate.

    python -m experiments.curricula.run            # about twelve minutes of one core; writes results.json and plot.png
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np

from effllm.config import Experiment, Program, assemble, override, validate
from effllm.data import Data, Dataset, prepare
from effllm.data.curriculum import LengthWarmup
from effllm.evaluate import held_out
from effllm.nn import DecoderLM
from effllm.train import AdamW, Cosine
from experiments.small_runs import BLOCK, LENGTH, ROWS, begun, spread

HERE = Path(__file__).parent
STEPS, SEEDS, RATE, FACTOR, SPIKE = 100, (0, 1, 2), 4e-3, 4, 1.2
TOKENS = STEPS * ROWS * LENGTH
WARMUP = LengthWarmup(LENGTH, 32, steps=60, multiple=32)
WHOLE, PART = "Block(Attention(heads=4),SwiGLU())", "RandomLTD(Attention(heads=4),SwiGLU(),keep=Ramp(0.5,duration=0.67,levels=2))"

ARMS = {
    "none": "data.curriculum=Shuffled()",
    "length warm-up": "data.curriculum=SequenceWarmup(minimum=32,steps=60,multiple=32)",
    "competence": "data.curriculum=Paced(ByRarity(),Competence(start=0.1,duration=0.6))",
    "random-LTD": f"model.blocks=({WHOLE},{PART},{PART},{WHOLE})",
    "anti-curriculum": "data.curriculum=Paced(ByRarity(),Competence(start=0.1,duration=0.6),hardest_first=True)",
}
AT_FACTOR = ("none", "length warm-up", "competence", "random-LTD")


def experiment(arm: str, rate: float) -> Experiment:
    """The arm: one line over what all share, trained on three tenths of the library's files."""
    shared = Experiment(
        model=DecoderLM(vocab_size=256, width=64, depth=4, blocks=(BLOCK,) * 4),
        data=Data(sequence_length=LENGTH, batch_size=ROWS, held_out=0.7),
        optimizer=AdamW(learning_rate=rate, schedule=Cosine(warmup=20)),
        steps=steps_of(arm),
    )  # fmt: skip
    return validate(override(shared, ARMS[arm]))


def steps_of(arm: str) -> int:
    """Steps until the arm has read as many tokens as the others."""
    read, step = 0, 0
    while read < TOKENS:
        read, step = read + ROWS * (WARMUP(step) if arm == "length warm-up" else LENGTH), step + 1
    return step


def one(program: Program, dataset: Dataset, seed: int) -> dict:
    """A run: its curve (tokens, CPU seconds of the steps that do not compile, held-out loss) and how often the training loss jumped."""
    program = dataclasses.replace(program, experiment=dataclasses.replace(program.experiment, seed=seed))
    steps, state, curve, losses, seconds, read = program.experiment.steps, program.init(), [], [], 0.0, 0.0
    with program.train_batches(dataset, 0) as batches:
        for step in range(steps):
            batch, compiled, start = program.place(next(batches)), program.jitted_step._cache_size(), time.process_time()
            state, metrics = program.step(state, batch, step)
            losses.append(float(metrics["loss"]))
            seconds += (time.process_time() - start) * (program.jitted_step._cache_size() == compiled)
            read += batch["tokens"].size
            if (step + 1) % 25 == 0 or step + 1 == steps:
                curve.append((read, seconds, held_out(program.loss, state.params, program.held_out_batches(dataset, 16), None).loss))
    loss = np.array(losses)
    jumps = int(np.sum(loss[1:] > SPIKE * np.minimum.accumulate(loss)[:-1]))
    return {"curve": curve, "final loss": curve[-1][2], "seconds": seconds, "jumps": jumps, "skipped": int(metrics["skipped"]), "steps": steps}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    results = begun(HERE, {"steps": STEPS, "tokens": TOKENS, "rate": RATE, "seeds": list(SEEDS), "spike": SPIKE, "lines": ARMS})
    for factor, arms in ((1, ARMS), (FACTOR, AT_FACTOR)):
        for arm in (arm for arm in arms if f"{arm}, {factor}x" not in results["arms"]):
            program = assemble(experiment(arm, factor * RATE))
            dataset = prepare(program.experiment.data)
            runs = [one(program, dataset, seed) for seed in SEEDS]
            found = {name: spread([run[name] for run in runs]) for name in ("final loss", "seconds", "jumps", "skipped")}
            compiled = {"steps": runs[0]["steps"], "compilations": program.jitted_step._cache_size()}
            results["arms"][f"{arm}, {factor}x"] = found | compiled | {"curve": np.mean([run["curve"] for run in runs], axis=0).tolist()}
            print(arm, factor, found["final loss"], found["seconds"]["mean"], found["jumps"]["mean"], compiled, flush=True)
            (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    plot(results)


def plot(results: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 3, figsize=(11.5, 3.2), layout="constrained", sharey=True)
    panels = ((axes[0], 1, 0, "tokens, thousands", 1e-3), (axes[1], 1, 1, "CPU seconds of training", 1), (axes[2], FACTOR, 0, "tokens, thousands", 1e-3))
    for axis, factor, column, label, scale in panels:
        for arm, color in zip(ARMS, ("#444444", "#4878a8", "#c06030", "#589050", "#a05090", "#b09020")):
            if f"{arm}, {factor}x" not in results["arms"]:
                continue
            curve = np.array(results["arms"][f"{arm}, {factor}x"]["curve"])
            axis.plot(curve[:, column] * scale, curve[:, 2], color=color, label=arm)
        axis.set(xlabel=label, title=f"{factor}× learning rate" if factor > 1 else "learning rate 0.004")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("held-out loss, nats a byte")
    axes[0].legend(frameon=False)
    fig.savefig(HERE / "plot.png", dpi=160)


if __name__ == "__main__":
    main()
