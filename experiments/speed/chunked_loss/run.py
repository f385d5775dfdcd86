"""Cross-entropy over a large vocabulary in chunks, beside the loss that holds all logits: temporary memory, gradient, time.

    pip install -e . && python -m experiments.speed.chunked_loss.run
"""

import argparse
import datetime
import statistics
from pathlib import Path

import jax
import jax.numpy as jnp

from effllm import ops
from effllm.cli.rundir import hardware
from experiments.speed import measure

TOKENS, WIDTH, VOCAB, ROUNDS = 2048, 256, 16384, 9


def plain(x_nd, w_dv, labels_n, weights_n):
    """The loss as one writes it first: logits, log-softmax, a look-up."""
    logits_nv = x_nd @ w_dv
    nll_n = -jnp.take_along_axis(jax.nn.log_softmax(logits_nv), labels_n[:, None], axis=-1)[:, 0]
    return jnp.sum(weights_n * nll_n)


def chunked(x_nd, w_dv, labels_n, weights_n):
    """What nn.NextToken calls, with its default chunk."""
    return ops.linear_cross_entropy(x_nd, w_dv, labels_n, weights_n)[0]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    keys = jax.random.split(jax.random.key(0), 3)
    x_nd, w_dv = jax.random.normal(keys[0], (TOKENS, WIDTH)), jax.random.normal(keys[1], (WIDTH, VOCAB)) / WIDTH**0.5
    rest = jax.random.randint(keys[2], (TOKENS,), 0, VOCAB), jnp.ones((TOKENS,))
    arms = {f.__name__: jax.jit(jax.value_and_grad(f, argnums=(0, 1))).lower(x_nd, w_dv, *rest).compile() for f in (plain, chunked)}
    outputs = {name: jax.block_until_ready(arm(x_nd, w_dv, *rest)) for name, arm in arms.items()}
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(ROUNDS):
        for name, arm in arms.items():
            times[name] += measure.seconds(lambda: jax.block_until_ready(arm(x_nd, w_dv, *rest)), 1, warmups=1)
    memory = {name: arm.memory_analysis().temp_size_in_bytes for name, arm in arms.items()}
    gap = max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in zip(*(outputs[n][1] for n in ("chunked", "plain")), strict=True))
    ratio = statistics.median(p / c for p, c in zip(times["plain"], times["chunked"], strict=True))
    results = {
        "date": datetime.date.today().isoformat(), "hardware": hardware(), "versions": measure.versions("effllm", "jax"),
        "temporary_bytes": memory, "memory_ratio": memory["plain"] / memory["chunked"], "seconds": times, "speed_ratio": ratio, "gradient_gap": gap,
    }  # fmt: skip
    table = "\n".join([
        f"{results['hardware']}; {', '.join(f'{k} {v}' for k, v in results['versions'].items())}; {results['date']}.", "",
        "| loss and gradient | temporary memory, MiB | ms |", "|---|---|---|",
        *(f"| {name} | {memory[name] / 2**20:.1f} | {1e3 * statistics.median(times[name]):.0f} |" for name in arms), "",
        f"**{results['memory_ratio']:.1f}×** less memory at **{ratio:.2f}×** the speed; largest difference of a gradient, relative to its largest value: {gap:.1e}.", "",
    ])  # fmt: skip
    measure.save(Path(__file__).parent, results, table)
    print(table)


if __name__ == "__main__":
    main()
