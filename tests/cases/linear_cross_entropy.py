"""Cases of ops.linear_cross_entropy: (function of differentiable arrays and an implementation, those arrays) by name."""

import jax.numpy as jnp
import numpy as np

from effllm import ops
from tests.tiny import random


def cases(dtype, op=ops.linear_cross_entropy):
    labels, weights = jnp.arange(77) % 50, jnp.asarray(np.arange(77) % 3, jnp.float32)

    def case(d=24, v=50, **kwargs):
        def function(x, w, b, implementation):
            return op(x, w, labels, weights, bias_v=b, implementation=implementation, **kwargs)[0] / 77

        return function, (random((77, d), dtype, 0), random((d, v), dtype, 1) / d**0.5, random((v,), dtype, 2))

    return {
        "chunks of 8": case(chunk=8), "one chunk, z-loss": case(z_loss=0.1), "chunks, soft cap, z-loss": case(chunk=30, soft_cap=3.0, z_loss=0.1),
        "wider than a tile": case(150, 200),
    }  # fmt: skip
