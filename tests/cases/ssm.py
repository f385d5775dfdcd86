"""Cases of ops.ssm: (function of differentiable arrays and an implementation, those arrays) by name."""

import jax
import jax.numpy as jnp

from effllm import ops
from tests.tiny import random


def cases(dtype):
    real = jnp.arange(29)[None] % jnp.array([[5], [40]]) != 3
    reset = jnp.arange(29)[None] % jnp.array([[9], [40]]) == 7

    def case(length=29, kind="real", **kwargs):
        def function(x, a, b, c, h, implementation):
            decay = jax.nn.sigmoid(a)
            if kind == "complex":
                decay, b, c, h = decay * jnp.exp(1j * a), b * (1 - 2j), c * jnp.exp(1j * b), h * 1j
            if kind == "matrix":
                decay = 0.3 * decay[:, :, None] * jnp.cos(a)[:, None] * jnp.exp(0.5j)
            y, last = ops.ssm(x, decay, b, c, h, implementation=implementation, **kwargs)
            y = jnp.where(kwargs.get("real_bt", jnp.array([[True]]))[..., None], y, 0)
            return y, last.real + 2 * last.imag if kind != "real" else last

        return function, tuple(random(s, dtype, i) for i, s in enumerate(((2, length, 5), (5, 3), (5, 3), (5, 3), (2, 5, 3))))

    return {
        "one token": case(length=1),
        "chunks of 8, packed, padded, complex": case(chunk=8, kind="complex", real_bt=real, reset_bt=reset),
        "chunks of 5, packed, padded, matrix": case(chunk=5, kind="matrix", real_bt=real, reset_bt=reset),
        "whole chunks": case(length=24, chunk=8),
    }
