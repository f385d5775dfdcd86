"""Forward and backward of every linear and delta-rule mixer over growing lengths, beside softmax attention, and chunked against step by step.

    pip install -e . && python -m experiments.speed.linear_mixers.run
    python -m experiments.speed.linear_mixers.run --lengths 64 128 --recurrent 128 --repeats 1 --smoke     # prints, writes nothing
"""

import argparse
import datetime
import statistics
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
MIXERS: dict[str, nn.Mixer] = {
    "Attention": nn.Attention(heads=HEADS),
    **{kind.__name__: kind(heads=HEADS) for kind in (
        nn.LinearAttention, nn.Performer, nn.RandomFeatureAttention, nn.Retention, nn.LightningAttention, nn.GatedLinearAttention, nn.DeltaNet,
        nn.GatedDeltaNet, nn.Mamba2, nn.RWKV6TimeMix, nn.RWKV7TimeMix,
    )},
    "CosFormer": nn.CosFormer(heads=HEADS, longest=max(LENGTHS)),
}  # fmt: skip


def timed(mixer: nn.Mixer, length: int, repeats: int) -> dict[str, float]:
    """Median seconds of one loss and gradient at batch 1, and the bytes of temporary memory that its program needs."""
    x_btd = jax.random.normal(jax.random.key(0), (1, length, WIDTH))
    positions = jnp.arange(length, dtype=jnp.int32)[None]
    params = meta.unbox(jax.jit(lambda: mixer.init(jax.random.key(1), x_btd[:, :8], positions=positions[:, :8], segment_ids=None))()["params"])

    def loss(params, x_btd):
        y_btd, _ = mixer.apply({"params": params}, x_btd, positions=positions, segment_ids=None)
        return jnp.mean(y_btd**2)

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(params, x_btd).compile()
    times = measure.seconds(lambda: jax.block_until_ready(step(params, x_btd)), repeats, warmups=1)
    return {"seconds": statistics.median(times), "temporary_bytes": step.memory_analysis().temp_size_in_bytes}


def exponent(found: dict[int, dict[str, float]]) -> float:
    """The slope of log seconds over log T, from 2,048 tokens on where there are two such lengths: below, fixed costs hide it."""
    lengths = [n for n in found if n >= 2048] if sum(n >= 2048 for n in found) > 1 else list(found)
    return float(np.polyfit(np.log(lengths), np.log([found[n]["seconds"] for n in lengths]), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--recurrent", type=int, default=RECURRENT)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mixers", nargs="+", default=list(MIXERS), choices=list(MIXERS))
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    found, ratio = {}, {}
    for name in options.mixers:
        found[name] = {length: timed(MIXERS[name], length, options.repeats) for length in options.lengths}
        if name != "Attention":
            # In turns, so that a machine that slows down slows both.
            pairs = [[timed(MIXERS[name].clone(implementation=form), options.recurrent, 1)["seconds"] for form in ("reference", None)] for _ in range(options.repeats)]
            ratio[name] = statistics.median(steps / chunked for steps, chunked in pairs)
        print(name, found[name], ratio.get(name), flush=True)
    results = {
        "date": datetime.date.today().isoformat(), "hardware": hardware(), "versions": measure.versions("effllm", "jax"), "width": WIDTH, "heads": HEADS,
        "by_length": found, "exponent": {name: exponent(rows) for name, rows in found.items()}, "chunked_over_recurrent": ratio,
    }  # fmt: skip
    table = "\n".join([
        f"{results['hardware']}; {', '.join(f'{k} {v}' for k, v in results['versions'].items())}; {results['date']}. Thousand tokens/s (MiB).", "",
        f"| mixer | {' | '.join(f'T = {n:,}' for n in options.lengths)} | exponent | × step by step at {options.recurrent:,} |",
        "|---" * (len(options.lengths) + 3) + "|",
        *(f"| {name} | " + " | ".join(f"{n / rows[n]['seconds'] / 1e3:.1f} ({rows[n]['temporary_bytes'] / 2**20:.0f})" for n in options.lengths)
          + f" | {results['exponent'][name]:.2f} | {f'{ratio[name]:.1f}' if name in ratio else '–'} |" for name, rows in found.items()), "",
    ])  # fmt: skip
    if not options.smoke:
        measure.save(Path(__file__).parent, results, table)
    print(table)


if __name__ == "__main__":
    main()
