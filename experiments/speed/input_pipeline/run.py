"""Tokens a second that the input pipeline delivers, beside what the training step of configs/first.py uses.

    pip install -e . && python -m experiments.speed.input_pipeline.run
"""

import argparse
import datetime
import itertools
import json
import time
from pathlib import Path

from experiments.speed import measure

CONFIG = Path(__file__).parents[3] / "configs/first.py"
BATCHES, STEPS, ROUNDS = 2000, 20, 3


def delivered(workers: int) -> dict[str, float]:
    """Batches read, unpacked and placed on the device; the first hundred are not counted."""
    import jax

    from effllm.config import assemble, load_config
    from effllm.data import prepare

    experiment = load_config(str(CONFIG), (f"data.workers={workers}",))
    program, dataset = assemble(experiment), prepare(experiment.data)
    with program.train_batches(dataset, 0) as batches:
        placed = map(program.place, batches)
        jax.block_until_ready(list(itertools.islice(placed, 100)))
        start = time.perf_counter()
        for batch in itertools.islice(placed, BATCHES):
            jax.block_until_ready(batch)
        seconds = time.perf_counter() - start
    return {"tokens_per_second": BATCHES * experiment.data.batch_size * experiment.data.sequence_length / seconds}


def used() -> dict[str, float]:
    """The training step, on a batch that lies ready."""
    import jax

    from effllm.config import assemble, load_config
    from effllm.data import prepare

    experiment = load_config(str(CONFIG))
    program, dataset = assemble(experiment), prepare(experiment.data)
    with program.train_batches(dataset, 0) as batches:
        batch, state = program.place(next(batches)), program.init()

    def step():
        nonlocal state
        state, metrics = program.step(state, batch)
        jax.block_until_ready(metrics)

    times = measure.seconds(step, STEPS)
    return {"tokens_per_second": experiment.data.batch_size * experiment.data.sequence_length / sorted(times)[STEPS // 2]}


ARMS = {"step": used, "threads": lambda: delivered(0), "2 processes": lambda: delivered(2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=ARMS, help="measure one arm and print JSON")
    arm = parser.parse_args().arm
    if arm:
        print(json.dumps(ARMS[arm]()))
        return
    from effllm.cli.rundir import hardware

    found = measure.rounds("experiments.speed.input_pipeline.run", tuple(ARMS), ROUNDS)
    speed = {name: measure.median(found[name], "tokens_per_second") for name in ARMS}
    ratio = {name: speed[name] / speed["step"] for name in ARMS}
    results = {
        "date": datetime.date.today().isoformat(), "hardware": hardware(), "versions": measure.versions("effllm", "jax", "grain", "array_record"),
        "rounds": found, "tokens_per_second": speed, "ratio_to_step": ratio,
    }  # fmt: skip
    names = {"step": "the step uses", "threads": "delivered, workers=0 (threads)", "2 processes": "delivered, workers=2 (processes)"}
    table = "\n".join([
        f"{results['hardware']}; {', '.join(f'{k} {v}' for k, v in results['versions'].items())}; {results['date']}.", "",
        "| | tokens/s | of the step's |", "|---|---|---|", *(f"| {names[n]} | {speed[n]:,.0f} | {ratio[n]:.0f}× |" for n in ARMS), "",
    ])  # fmt: skip
    measure.save(Path(__file__).parent, results, table)
    print(table)


if __name__ == "__main__":
    main()
