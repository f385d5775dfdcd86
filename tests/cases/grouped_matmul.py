"""Cases of ops.grouped_matmul: (function of differentiable arrays and an implementation, those arrays) by name."""

import jax.numpy as jnp

from effllm import ops
from tests.tiny import random


def cases(dtype, op=ops.grouped_matmul):
    def case(m, k, n, *sizes):
        def run(x, w, implementation):
            return op(x, w, jnp.array(sizes, jnp.int32), implementation=implementation)

        return run, (random((m, k), dtype, 0), random((len(sizes), k, n), dtype, 1) / k**0.5)

    return {
        "empty groups, rows beyond": case(210, 40, 72, 0, 3, 130, 0, 0, 60, 0),
        "one group": case(33, 16, 8, 33),
        "groups beyond the rows": case(150, 24, 20, 64, 64, 64, 10),
        "wider than a tile": case(140, 600, 530, 17, 0, 100),
        "no row at all": case(20, 16, 16, 0, 0),
    }
