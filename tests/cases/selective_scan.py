"""Cases of ops.selective_scan: (function of differentiable arrays and an implementation, those arrays) by name."""

import jax
import jax.numpy as jnp

from effllm import ops
from tests.tiny import random


def cases(dtype, op=ops.selective_scan):
    real = jnp.arange(29)[None] % jnp.array([[5], [40]]) != jnp.array([[3], [7]])  # a reset at 7 that padding hides
    reset = jnp.arange(29)[None] % jnp.array([[9], [40]]) == 7

    def case(length=29, width=5, **kwargs):
        def function(x, dt, a, b, c, h, implementation):
            return op(x, jax.nn.softplus(dt), -jnp.exp(a), b, c, h, implementation=implementation, **kwargs)

        shapes = (2, length, width), (2, length, width), (width, 3), (2, length, 3), (2, length, 3), (2, width, 3)
        return function, tuple(random(s, dtype, i) for i, s in enumerate(shapes))

    return {
        "one chunk": case(chunk=32),
        "chunks of 8": case(chunk=8),
        "many channels, chunks of 8, packed, padded": case(width=130, chunk=8, real_bt=real, reset_bt=reset),
        "one token": case(length=1),
    }
