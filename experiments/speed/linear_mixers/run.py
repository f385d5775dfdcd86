"""Forward and backward of every linear and delta-rule mixer over growing lengths, beside softmax attention, and chunked against step by step; decoding
after growing contexts.

    pip install -e . && python -m experiments.speed.linear_mixers.run     # a stopped run goes on
    python -m experiments.speed.linear_mixers.run --lengths 64 128 --recurrent 128 --repeats 1 --smoke     # prints, writes nothing
"""

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from effllm import nn
from effllm.cli.rundir import hardware
from experiments.speed import measure

WIDTH, HEADS = 256, 4
LENGTHS, RECURRENT = (512, 1024, 2048, 4096, 8192, 16384, 32768), 4096
CONTEXTS, FILL = (1024, 16384, 65536), 512
MIXERS: dict[str, nn.Mixer] = {
    "Attention": nn.Attention(heads=HEADS),
    **{kind.__name__: kind(heads=HEADS) for kind in (
        nn.LinearAttention, nn.Performer, nn.RandomFeatureAttention, nn.Retention, nn.LightningAttention, nn.GatedLinearAttention, nn.DeltaNet,
        nn.GatedDeltaNet, nn.Mamba2, nn.RWKV6TimeMix, nn.RWKV7TimeMix, nn.RGLRU,
    )},
    "Mamba": nn.Mamba(),
    "CosFormer": nn.CosFormer(heads=HEADS, longest=max(CONTEXTS)), "MLSTM": nn.MLSTM(heads=HEADS), "SLSTM": nn.SLSTM(heads=HEADS),
    "BlockRecurrent": nn.BlockRecurrent(heads=HEADS),
}  # fmt: skip
ONE_FORM = "Attention", "SLSTM", "BlockRecurrent"  # no chunked form beside a step-by-step one


def compiled(mixer: nn.Mixer, length: int) -> tuple[Callable[[], object], int]:
    """(a call of one loss and gradient at batch 1, the bytes of temporary memory that its program needs)."""
    x_btd = jax.random.normal(jax.random.key(0), (1, length, WIDTH))
    positions = jnp.arange(length, dtype=jnp.int32)[None]
    params = meta.unbox(jax.jit(lambda: mixer.init(jax.random.key(1), x_btd[:, :8], positions=positions[:, :8], segment_ids=None))()["params"])

    def loss(params, x_btd):
        y_btd, _ = mixer.apply({"params": params}, x_btd, positions=positions, segment_ids=None)
        return jnp.mean(y_btd**2)

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(params, x_btd).compile()
    return lambda: jax.block_until_ready(step(params, x_btd)), step.memory_analysis().temp_size_in_bytes


def least(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """The least seconds of each call, all in turns, so that a machine that slows down slows all."""
    rounds = [[measure.seconds(call, 1, warmups=int(n == 0))[0] for call in calls] for n in range(repeats)]
    return [min(times) for times in zip(*rounds, strict=True)]


def decoded(mixer: nn.Mixer, context: int, repeats: int) -> dict[str, float]:
    """Median seconds to decode one token of one row after `context` tokens, and the bytes of its state."""
    x_btd = jax.random.normal(jax.random.key(0), (1, FILL, WIDTH))

    def places(start, count):
        return start + jnp.arange(count, dtype=jnp.int32)[None]

    params = meta.unbox(jax.jit(lambda: mixer.init(jax.random.key(1), x_btd[:, :8], positions=places(0, 8), segment_ids=None))())
    step = jax.jit(lambda p, x, at, state: mixer.apply(p, x, positions=at, segment_ids=None, state=state), donate_argnums=3)
    state = mixer.init_state(1, context, WIDTH, jnp.float32)
    size = sum(a.nbytes for a in jax.tree.leaves(state))
    for start in range(0, context - FILL, FILL):
        _, state = step(params, x_btd, places(start, FILL), state)
    at, times = context - FILL, []
    for _ in range(repeats):
        start = time.perf_counter()
        y_btd, state = step(params, x_btd[:, :1], places(at, 1), state)
        jax.block_until_ready(y_btd)
        times.append(time.perf_counter() - start)
        at += 1
    return {"seconds": statistics.median(times[2:]), "bytes": size}


def exponent(rows: list[dict[str, float]]) -> float:
    """The slope of log seconds over log T, from 2,048 tokens on where there are two such lengths: below, fixed costs hide it."""
    long = [r for r in rows if r["length"] >= 2048]
    fitted = long if len(long) > 1 else rows
    return float(np.polyfit(np.log([r["length"] for r in fitted]), np.log([r["seconds"] for r in fitted]), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--recurrent", type=int, default=RECURRENT)
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mixers", nargs="+", default=list(MIXERS), choices=list(MIXERS))
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    here = Path(__file__).parent
    same = {"hardware": hardware(), "versions": measure.versions("effllm", "jax"), "width": WIDTH, "heads": HEADS, "recurrent_length": options.recurrent}
    results = {"date": datetime.date.today().isoformat(), **same, "mixers": {}}
    if not options.smoke and (here / "results.json").exists():
        before = json.loads((here / "results.json").read_text())
        if {name: before[name] for name in same} != same:
            raise SystemExit("results.json is of another machine or other versions: remove it, or add --smoke to only print")
        results["mixers"] = before["mixers"]
    for name in [name for name in options.mixers if name not in results["mixers"]]:
        steps = [compiled(MIXERS[name], length) for length in options.lengths]
        times = least([call for call, _ in steps], options.repeats)
        row = {"by_length": [{"length": n, "seconds": t, "temporary_bytes": size} for n, t, (_, size) in zip(options.lengths, times, steps, strict=True)]}
        row["exponent"] = exponent(row["by_length"])
        if name not in ONE_FORM:
            forms = [compiled(MIXERS[name].clone(implementation=form), options.recurrent)[0] for form in ("reference", None)]
            by_step, chunked = least(forms, options.repeats)
            row["chunked_over_recurrent"] = by_step / chunked
        row["decoding"] = [{"context": context, **decoded(MIXERS[name], context, 22)} for context in options.contexts]
        results["mixers"][name] = row
        print(name, row, flush=True)
        if not options.smoke:
            measure.save(here, results, table(results))
    print(table(results))


def table(results: dict) -> str:
    """The README's tables: of all mixers that results.json has, in its order."""
    rows = results["mixers"]
    first = next(iter(rows.values()))
    lengths, contexts = [r["length"] for r in first["by_length"]], [r["context"] for r in first["decoding"]]
    lines = [f"{results['hardware']}; {', '.join(f'{k} {v}' for k, v in results['versions'].items())}; {results['date']}. Thousand tokens/s (MiB).", ""]
    lines += [f"| mixer | {' | '.join(f'T = {n:,}' for n in lengths)} | exponent | × step by step at {results['recurrent_length']:,} |", "|---" * (len(lengths) + 3) + "|"]
    for name, row in rows.items():
        cells = [f"{r['length'] / r['seconds'] / 1e3:.1f} ({r['temporary_bytes'] / 2**20:.0f})" for r in row["by_length"]]
        ratio = f"{row['chunked_over_recurrent']:.1f}" if "chunked_over_recurrent" in row else "–"
        lines.append(f"| {name} | {' | '.join(cells)} | {row['exponent']:.2f} | {ratio} |")
    lines += ["", "Decoding one row: tokens/s (state, kB).", "", f"| mixer | {' | '.join(f'after {n:,}' for n in contexts)} |", "|---" * (len(contexts) + 1) + "|"]
    for name, row in rows.items():
        cells = [f"{1 / r['seconds']:,.0f} ({r['bytes'] / 1e3:,.0f})" for r in row["decoding"]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
