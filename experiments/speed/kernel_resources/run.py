"""What each GPU kernel takes of an H100 at the shapes that the benchmarks time, compiled where no GPU is: shared memory, registers, stack.

    pip install -e '.[aot]' && python -m experiments.speed.kernel_resources.run [--only delta]     # writes nothing with --only
"""

import argparse
import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from effllm import kernels
from experiments.speed import measure, ptx
from experiments.speed.linear_kernels.run import OPERATIONS, subject

LENGTH, HEADS, HEAD_DIM, LIMIT = 1024, 2, 128, 232_448  # a kernel's programs do not depend on the length, batch and heads


def differentiated(function: Callable, *arrays: jax.Array) -> Callable:
    """function and its pullback of ones."""

    def run(*arrays):
        out, pull = jax.vjp(function, *arrays)
        return pull(jax.tree.map(jnp.ones_like, out))

    return run


def programs() -> Iterator[tuple[str, Callable, tuple]]:
    """(name, a function that runs kernels forward and backward, shapes of its arguments)."""
    for name in OPERATIONS:
        held = []

        def arrays():
            function, arrays = subject(name, (1, LENGTH, HEADS, HEAD_DIM), "pallas")
            held.append(function)
            return arrays

        shapes = jax.eval_shape(arrays)
        yield name, differentiated(held[0]), shapes
    x, w = jax.ShapeDtypeStruct((LENGTH, 2048), jnp.bfloat16), jax.ShapeDtypeStruct((2048, 32768), jnp.float32)
    labels, weights = jax.ShapeDtypeStruct((LENGTH,), jnp.int32), jax.ShapeDtypeStruct((LENGTH,), jnp.float32)

    def loss(x, w, labels, weights):
        return jax.grad(lambda x, w: kernels.linear_cross_entropy(x, w, labels, weights, implementation="pallas")[0], argnums=(0, 1))(x, w)

    yield "cross-entropy", loss, (x, w, labels, weights)
    rows, experts = jax.ShapeDtypeStruct((LENGTH, 2048), jnp.bfloat16), jax.ShapeDtypeStruct((8, 2048, 1024), jnp.bfloat16)
    sizes = jax.ShapeDtypeStruct((8,), jnp.int32)

    def experts_of(x, w, sizes):
        return differentiated(lambda x, w: kernels.grouped_matmul(x, w, sizes, implementation="pallas"))(x, w)

    yield "grouped products", experts_of, (rows, experts, sizes)
    q = jax.ShapeDtypeStruct((1, 1, 16, HEAD_DIM), jnp.bfloat16)
    kv = jax.ShapeDtypeStruct((1, LENGTH, HEADS, HEAD_DIM), jnp.bfloat16)
    order = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    yield "decoding", lambda q, k, v, order: kernels.attention(q, k, v, q_order_bt=order, implementation="pallas"), (q, kv, kv, order)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="part of a name")
    options = parser.parse_args()
    rows = []
    for name, function, shapes in programs():
        if options.only not in name:
            continue
        for number, kernel in enumerate(ptx.kernels(function, *shapes)):
            row = {"name": f"{name}, {number + 1}", "warps": kernel.warps, "stages": kernel.stages}
            try:
                row |= ptx.compiled(kernel)._asdict()
            except Exception as error:  # the compiler's own, of many kinds: the row says so
                row["error"] = f"{type(error).__name__}: {error}"[:200]
            rows.append(row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
