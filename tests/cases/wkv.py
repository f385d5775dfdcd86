"""Cases of ops.wkv: (function of differentiable arrays and an implementation, those arrays) by name."""

import jax
import jax.numpy as jnp

from effllm import ops
from effllm.ops.wkv import Average
from tests.tiny import random


def cases(dtype):
    real = jnp.arange(29)[None] % jnp.array([[5], [40]]) != 3
    reset = jnp.arange(29)[None] % jnp.array([[9], [40]]) == 7

    def case(length=29, start=True, **kwargs):
        def function(k, v, decay, bonus, values, weights, implementation):
            before = Average(values, jax.nn.softplus(weights), values + 1) if start else None
            y, last = ops.wkv(3 * k, v, -jnp.exp(decay), bonus, before, implementation=implementation, **kwargs)
            y = jnp.where(kwargs.get("real_bt", jnp.array([[True]]))[..., None], y, 0)
            return y, last.values_bd, last.weights_bd

        shapes = (2, length, 5), (2, length, 5), (5,), (5,), (2, 5), (2, 5)
        return function, tuple(random(s, dtype, i) for i, s in enumerate(shapes))

    return {"plain": case(), "one token": case(length=1), "packed, padded, no start": case(start=False, real_bt=real, reset_bt=reset)}
