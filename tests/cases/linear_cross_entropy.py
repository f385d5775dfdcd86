"""Cases of ops.linear_cross_entropy: (function of differentiable arrays and an implementation, those arrays) by name."""

import jax.numpy as jnp
import numpy as np

from effllm import ops
from tests.tiny import random


def cases(dtype):
    labels, weights = jnp.arange(77) % 50, jnp.asarray(np.arange(77) % 3, jnp.float32)

    def case(**kwargs):
        def function(x, w, b, implementation):
            return ops.linear_cross_entropy(x, w, labels, weights, bias_v=b, implementation=implementation, **kwargs)[0] / 77

        return function, (random((77, 24), dtype, 0), random((24, 50), dtype, 1), random((50,), dtype, 2))

    return {"chunks of 8": case(chunk=8), "one chunk, z-loss": case(z_loss=0.1), "chunks, soft cap, z-loss": case(chunk=30, soft_cap=3.0, z_loss=0.1)}
