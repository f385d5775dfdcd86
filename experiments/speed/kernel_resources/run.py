"""What each GPU kernel takes of an H100 at the shapes that the benchmarks time, found by its compiler on a machine without a GPU: shared memory, registers, stack.

    pip install -e '.[aot]' && python -m experiments.speed.kernel_resources.run
    python -m experiments.speed.kernel_resources.run --only "gated delta rule"     # prints, writes nothing
"""

import argparse
import datetime
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from effllm import kernels
from experiments.speed import measure, ptx
from experiments.speed.linear_kernels.run import OPERATIONS, subject

LENGTH, HEADS, HEAD_DIM, WIDTH = 1024, 2, 128, 2048  # a kernel's programs do not depend on the length, batch and heads
NAMES = (*OPERATIONS, "flash attention, 256 channels, float32", "decoding", "cross-entropy", "grouped products")


def pulled(function: Callable) -> Callable:
    """What function's pullback makes of ones."""

    def run(*arrays):
        out, pull = jax.vjp(function, *arrays)
        return pull(jax.tree.map(jnp.ones_like, out))

    return run


def program(name: str) -> tuple[Callable, tuple]:
    """(a function that runs the kernels of this name forward and backward, shapes of its arguments)."""
    shape = jax.ShapeDtypeStruct
    if name in OPERATIONS:
        held = []
        shapes = jax.eval_shape(lambda: held.append(subject(name, (1, LENGTH, HEADS, HEAD_DIM), "pallas")) or held[0][1])
        return pulled(held[0][0]), shapes
    if name == "flash attention, 256 channels, float32":
        return pulled(lambda q, k, v: kernels.attention(q, k, v, implementation="pallas")), (shape((1, LENGTH, HEADS, 256), jnp.float32),) * 3
    if name == "decoding":
        q, kv = shape((1, 1, 16, HEAD_DIM), jnp.bfloat16), shape((1, LENGTH, HEADS, HEAD_DIM), jnp.bfloat16)
        return lambda q, k, v, order: kernels.attention(q, k, v, q_order_bt=order, implementation="pallas"), (q, kv, kv, shape((1, 1), jnp.int32))
    x = shape((LENGTH, WIDTH), jnp.bfloat16)
    if name == "cross-entropy":

        def loss(x, w, labels, weights):
            return pulled(lambda x, w: kernels.linear_cross_entropy(x, w, labels, weights, implementation="pallas")[0])(x, w)

        return loss, (x, shape((WIDTH, 32768), jnp.float32), shape((LENGTH,), jnp.int32), shape((LENGTH,), jnp.float32))

    def grouped(x, w, sizes):
        return pulled(lambda x, w: kernels.grouped_matmul(x, w, sizes, implementation="pallas"))(x, w)

    return grouped, (x, shape((8, WIDTH, 1024), jnp.bfloat16), shape((8,), jnp.int32))


def table(results: dict) -> str:
    """The README's table."""
    lines = [f"{', '.join(f'{k} {v}' for k, v in results['versions'].items())}; {results['date']}; of an H100's {ptx.SHARED[90]:,} bytes and 255 registers.", ""]
    lines += ["| kernel, in the order in which they run | warps | shared, bytes | registers | stack, bytes a thread | compiled in, s |", "|---" * 6 + "|"]
    for name, found in results["kernels"].items():
        lines += [
            f"| {name}, {n} | {k['warps']} | {k['shared']:,} | {k['registers']} | {k['stack']:,} | {k['seconds']:.1f} |" for n, k in enumerate(found, 1)
        ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NAMES, help="one of the kernels")
    options = parser.parse_args()
    results = {"date": datetime.date.today().isoformat(), "versions": measure.versions("effllm", "jax", "triton"), "kernels": {}}
    for name in NAMES if options.only is None else [options.only]:
        function, shapes = program(name)
        results["kernels"][name] = [{"warps": kernel.warps, "stages": kernel.stages, **ptx.compiled(kernel)._asdict()} for kernel in ptx.kernels(function, *shapes)]
        print(name, *results["kernels"][name], sep="\n  ", flush=True)
    if options.only is None:
        measure.save(Path(__file__).parent, results, table(results))
    print(table(results))


if __name__ == "__main__":
    main()
