"""One training step of effllm beside the equal PyTorch eager model, on the same cores in one run.

    pip install -e . torch && python -m experiments.speed.train_step.run
"""

import argparse
import datetime
import json
from pathlib import Path

from experiments.speed import measure
from experiments.speed.train_step.peer import Shape, batch, decoder, optimizer, update

SHAPE = Shape(batch=16, length=256, vocab=256, width=256, depth=4, heads=4, hidden=688)
ROUNDS, STEPS = 5, 12


def ours() -> dict[str, float]:
    """Seconds a step of the program that `effllm train` runs."""
    import jax

    from effllm.config import Experiment, assemble
    from effllm.data import Data
    from effllm.nn import Attention, Block, DecoderLM, SwiGLU

    blocks = (Block(Attention(heads=SHAPE.heads), SwiGLU(hidden=SHAPE.hidden)),)
    model = DecoderLM(vocab_size=SHAPE.vocab, width=SHAPE.width, depth=SHAPE.depth, blocks=blocks, unroll=SHAPE.depth)
    program = assemble(Experiment(model=model, data=Data(sequence_length=SHAPE.length, batch_size=SHAPE.batch), steps=1000))
    state = program.init()
    placed = program.place(batch(SHAPE))

    def step():
        nonlocal state
        state, metrics = program.step(state, placed)
        jax.block_until_ready(metrics)

    times = measure.seconds(step, STEPS)
    return {"seconds": sorted(times)[STEPS // 2], "parameters": sum(a.size for a in jax.tree.leaves(state.params))}


def torch() -> dict[str, float]:
    """Seconds a step of the same decoder written in plain PyTorch: fused SDPA, its own cross-entropy and AdamW."""
    import torch
    from torch.nn import functional as F

    model = decoder(SHAPE)
    data = {name: torch.from_numpy(array.copy()).long() for name, array in batch(SHAPE).items() if name in ("tokens", "targets")}
    step = update(model, lambda: F.cross_entropy(model(data["tokens"]).view(-1, SHAPE.vocab), data["targets"].reshape(-1)), optimizer(model))
    times = measure.seconds(lambda: step().item(), STEPS)
    return {"seconds": sorted(times)[STEPS // 2], "parameters": sum(p.numel() for p in model.parameters())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=("ours", "torch"), help="measure one arm and print JSON")
    arm = parser.parse_args().arm
    if arm:
        print(json.dumps(ours() if arm == "ours" else torch()))
        return
    from effllm.cli.rundir import hardware

    found = measure.rounds("experiments.speed.train_step.run", ("ours", "torch"), ROUNDS)
    speed = {a: SHAPE.batch * SHAPE.length / measure.median(found[a], "seconds") for a in found}
    ratios = [t["seconds"] / o["seconds"] for o, t in zip(found["ours"], found["torch"], strict=True)]
    results = {
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(),
        "versions": measure.versions("effllm", "jax", "flax", "torch"),
        "rounds": found,
        "tokens_per_second": speed,
        "ratio": sorted(ratios)[ROUNDS // 2],
        "ratio_range": [min(ratios), max(ratios)],
    }
    parameters = found["ours"][0]["parameters"]
    rows = [f"| {name} | {1e3 * measure.median(found[a], 'seconds'):.0f} | {speed[a]:,.0f} |" for name, a in (("effllm", "ours"), ("PyTorch eager", "torch"))]
    table = "\n".join([
        f"{results['hardware']}; {', '.join(f'{k} {v}' for k, v in results['versions'].items())}; {results['date']}. {parameters:,} parameters.", "",
        "| | ms a step | tokens/s |", "|---|---|---|", *rows, "",
        f"effllm runs at **{results['ratio']:.2f}×** of PyTorch (median of {ROUNDS} rounds, {min(ratios):.2f} to {max(ratios):.2f}).", "",
    ])  # fmt: skip
    measure.save(Path(__file__).parent, results, table)
    print(table)


if __name__ == "__main__":
    main()
