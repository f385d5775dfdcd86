"""Every choice that an operation leaves (implementation, chunk) beside its default, forward with backward on this machine: is any default more than 10 % slower?

    pip install -e . && python -m experiments.speed.choices.run     # a stopped run goes on
    python -m experiments.speed.choices.run --operations selective_scan --again     # measures these anew
    python -m experiments.speed.choices.run --again --tune     # then writes the quickest chunks to effllm/ops/tuned.json, which defaults are read from
"""

import argparse
import datetime
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from effllm import ops
from effllm.cli.rundir import hardware
from effllm.ops import tuned
from experiments.speed import measure

ROUNDS, SECONDS, TOLERANCE, NOISE = 5, 15, 1.1, 1.07
TUNED = Path(tuned.__file__).with_name("tuned.json")
DEFAULT = "default"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """`arrays(*shape)` are what `function(*arrays, **choice)` takes; its first result is differentiated. `choices` are keywords by name."""

    letters: str
    shapes: tuple[Shape, ...]
    arrays: Callable[..., tuple[jax.Array, ...]]
    function: Callable[..., Any]
    choices: dict[str, dict[str, Any]]
    tuned: bool = False  # whether its default chunk is read from tuned.json


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def heads(batch: int, length: int, count: int, dim: int) -> tuple[jax.Array, ...]:
    """q, k, v; keys of length 1, as layers of the delta rule make them."""
    q, k, v = (normal(batch, length, count, dim, seed=n) for n in range(3))
    return q * dim**-0.5, k / jnp.linalg.norm(k, axis=-1, keepdims=True), v


def decay(*shape: int) -> jax.Array:
    return jax.nn.log_sigmoid(normal(*shape, seed=3) + 4) / 4


def scanned(batch: int, length: int, width: int, states: int) -> tuple[jax.Array, ...]:
    a_dn = -jnp.broadcast_to(jnp.arange(1.0, states + 1), (width, states))
    step = jax.nn.softplus(normal(batch, length, width, seed=1) - 4)
    return normal(batch, length, width), step, a_dn, normal(batch, length, states, seed=2), normal(batch, length, states, seed=3)


def head(tokens: int, width: int, vocab: int) -> tuple[jax.Array, ...]:
    return normal(tokens, width), normal(width, vocab, seed=1) / width**0.5, jnp.arange(tokens) % vocab, jnp.full((tokens,), 1 / tokens)


def sizes(*of: int) -> dict[str, dict[str, Any]]:
    return {f"chunk {size}": {"chunk": size} for size in of}


def chunks(*of: int) -> dict[str, dict[str, Any]]:
    return {"reference": {"implementation": "reference"}, **sizes(*of)}


def entmax(q_bthk: jax.Array, k_bthk: jax.Array, v_bthv: jax.Array, **choice: Any) -> jax.Array:
    order_bt, one_bt = places(q_bthk)
    return ops.entmax_attention(q_bthk, k_bthk, v_bthv, jnp.full(q_bthk.shape[2], 1.5), order_bt, order_bt, one_bt, one_bt, **choice)


def landmark(q_bthk: jax.Array, k_bthk: jax.Array, v_bthv: jax.Array, **choice: Any) -> jax.Array:
    return ops.landmark_attention(q_bthk, k_bthk, k_bthk, v_bthv, *places(q_bthk), block=32, **choice)


def places(q_bthk: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each token's place in its row, and the segment 1."""
    return jnp.broadcast_to(jnp.arange(q_bthk.shape[1]), q_bthk.shape[:2]), jnp.ones(q_bthk.shape[:2], jnp.int32)


def split(batch: int, length: int, count: int, dim: int) -> tuple[jax.Array, ...]:
    """What RWKV-7 gives the delta rule: q, k, v, what is read and what is written, the decay of each channel."""
    q, k, v = heads(batch, length, count, dim)
    rate = jax.nn.sigmoid(normal(batch, length, count, dim, seed=4))
    return q, k, v, k, -rate * k, decay(batch, length, count, dim)


def diagonal(batch: int, length: int, width: int, states: int) -> tuple[jax.Array, ...]:
    a_dn = jnp.exp(-jnp.broadcast_to(jnp.arange(1.0, states + 1), (width, states)) / 64)
    return normal(batch, length, width), a_dn, normal(width, states, seed=1), normal(width, states, seed=2)


MIXED = (1, 512, 4, 64), (1, 4096, 4, 64), (16, 256, 4, 64)
SIZES, QUERIES = chunks(16, 32, 64, 128), sizes(8, 16, 32, 64, 128)
OPERATIONS = {
    "attention": Operation(
        "B, T, H, K", (*MIXED, (4, 2048, 8, 64)), heads, ops.attention, {"reference": {"implementation": "reference"}, "xla": {"implementation": "xla"}}
    ),
    "linear_attention, a decay a head": Operation("B, T, H, K", MIXED, lambda *s: (*heads(*s), decay(*s[:3])), ops.linear_attention, SIZES, True),
    "linear_attention, a decay a channel": Operation("B, T, H, K", MIXED, lambda *s: (*heads(*s), decay(*s)), ops.linear_attention, SIZES, True),
    "delta_rule": Operation(
        "B, T, H, K; gated", MIXED, lambda *s: (*heads(*s), jax.nn.sigmoid(normal(*s[:3], seed=4)), decay(*s[:3])), ops.delta_rule, SIZES, True
    ),
    "entmax_attention": Operation("B, T, H, K", MIXED, heads, entmax, QUERIES, True),
    "landmark_attention": Operation("B, T, H, K", MIXED, heads, landmark, QUERIES, True),
    "dplr": Operation("B, T, H, K", MIXED, split, ops.dplr, SIZES),
    "ssm": Operation("B, T, D, N", ((1, 512, 256, 16), (16, 256, 256, 16), (1, 4096, 256, 16)), diagonal, ops.ssm, SIZES, True),
    "linear_recurrence": Operation(
        "B, T, D", ((16, 256, 256), (1, 512, 256), (1, 4096, 256), (4, 2048, 512)), lambda *s: (jnp.exp(decay(*s)), normal(*s)), ops.linear_recurrence,
        {name: {"implementation": name} for name in ("reference", "associative", "blockwise", "sequential")},
    ),
    "selective_scan": Operation(
        "B, T, D, N", ((1, 512, 512, 16), (4, 256, 512, 16), (1, 4096, 512, 16)), scanned, ops.selective_scan, chunks(4, 8, 16, 32, 64)
    ),
    "linear_cross_entropy": Operation(
        "tokens, D, V", ((4096, 256, 256), (2048, 256, 4096), (2048, 256, 16384)), head, ops.linear_cross_entropy, chunks(64, 128, 256, 512, 1024)
    ),
}  # fmt: skip


def seconds(operation: Operation, shape: Shape) -> dict[str, float]:
    """The quickest of up to ROUNDS calls of each choice (two at least, however long they take), in turns, so that a machine that slows down slows all."""
    arrays = operation.arrays(*shape)
    floating = tuple(n for n, a in enumerate(arrays) if jnp.issubdtype(a.dtype, jnp.floating))

    def compiled(choice):
        def loss(*arrays):
            out = operation.function(*arrays, **choice)
            return jnp.sum(jnp.sin(out[0] if isinstance(out, tuple) else out))

        return jax.jit(jax.value_and_grad(loss, argnums=floating)).lower(*arrays).compile()

    steps = {name: compiled(choice) for name, choice in {DEFAULT: {}, **operation.choices}.items()}
    found: dict[str, float] = {}
    start = time.perf_counter()
    for n in range(ROUNDS):
        if n > 1 and time.perf_counter() - start > SECONDS:
            break
        for name, step in steps.items():
            took = measure.seconds(lambda: jax.block_until_ready(step(*arrays)), 1, warmups=int(n == 0))[0]
            found[name] = min(took, found.get(name, took))
    return found


def named(shape: Shape) -> str:
    return " × ".join(map(str, shape))


def slower(found: dict[str, float]) -> tuple[str, float]:
    """(the quickest choice, the default's time over its)."""
    best = min((name for name in found if name != DEFAULT), key=found.__getitem__)
    return best, found[DEFAULT] / found[best]


def tune(seconds: dict[str, dict[str, dict[str, float]]]) -> None:
    """Writes the quickest chunk of every tuned operation at every shape that was measured to this platform's part of tuned.json."""
    table, platform = json.loads(TUNED.read_text()), jax.default_backend()
    standing = {(name, *row["shape"]): row["chunk"] for name, rows in table.get(platform, {}).items() for row in rows}
    rows = {
        name: [
            {"shape": list(shape), "chunk": quickest_chunk(OPERATIONS[name], seconds[name][named(shape)], standing.get((name, *shape)))}
            for shape in OPERATIONS[name].shapes if named(shape) in seconds[name]
        ]
        for name in OPERATIONS if OPERATIONS[name].tuned and seconds.get(name)
    }  # fmt: skip
    TUNED.write_text(json.dumps(table | {platform: rows}, indent=1) + "\n")


def quickest_chunk(operation: Operation, found: dict[str, float], standing: int | None) -> int:
    """The chunk that took least; the one that stands in the table where it is within NOISE of that."""
    times = {choice["chunk"]: found[name] for name, choice in operation.choices.items() if "chunk" in choice}
    best = min(times, key=times.__getitem__)
    return standing if standing in times and times[standing] <= NOISE * times[best] else best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", nargs="+", default=list(OPERATIONS), choices=list(OPERATIONS), metavar="NAME", help=", ".join(OPERATIONS))
    parser.add_argument("--again", action="store_true", help="measure what results.json has too")
    parser.add_argument("--tune", action="store_true", help="write the quickest chunks to effllm/ops/tuned.json")
    options = parser.parse_args()
    here = Path(__file__).parent
    same = {"hardware": hardware(), "versions": measure.versions("effllm", "jax")}
    before = json.loads((here / "results.json").read_text()) if (here / "results.json").exists() else {}
    if before and {name: before[name] for name in same} != same:
        raise SystemExit("results.json is of another machine or other versions: remove it to begin anew")
    results = {"date": datetime.date.today().isoformat(), **same, "seconds": before.get("seconds", {})}
    for name in options.operations:
        for shape in OPERATIONS[name].shapes:
            words, rows = named(shape), results["seconds"].setdefault(name, {})
            if words in rows and not options.again:
                continue
            rows[words] = seconds(OPERATIONS[name], shape)
            print(name, words, rows[words], flush=True)
            measure.save(here, results, table(results))
    if options.tune:
        tune(results["seconds"])
    print(table(results))


def table(results: dict) -> str:
    """Milliseconds of every choice by shape; a default that a choice beats by more than 10 % in bold."""
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    lines = [f"{results['hardware']}; {versions}; {results['date']}. Milliseconds forward with backward, float32.", ""]
    for name in [name for name in OPERATIONS if results["seconds"].get(name)]:
        rows = results["seconds"][name]
        columns = list(next(iter(rows.values())))
        lines += [f"| {name}: {OPERATIONS[name].letters} | {' | '.join(columns)} | default / quickest |", "|---" * (len(columns) + 2) + "|"]
        for shape in map(named, OPERATIONS[name].shapes):
            if shape not in rows:
                lines.append(f"| {shape} |{' |' * len(columns)} not run |")
                continue
            found = rows[shape]
            best, ratio = slower(found)
            verdict = f"**{ratio:.2f}** ({best})" if ratio > TOLERANCE else f"{ratio:.2f}"
            lines.append(f"| {shape} | {' | '.join(f'{1e3 * found[c]:.1f}' if c in found else '–' for c in columns)} | {verdict} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
