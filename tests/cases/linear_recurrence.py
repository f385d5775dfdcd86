"""Cases of ops.linear_recurrence: (function of differentiable arrays and an implementation, those arrays) by name."""

import jax
import jax.numpy as jnp

from effllm import ops
from tests.tiny import random


def cases(dtype):
    real = jnp.arange(29)[None] % jnp.array([[5], [40]]) != 3
    reset = jnp.arange(29)[None] % jnp.array([[9], [40]]) == 7

    def case(length=29, constant=False, start=True, **kwargs):
        def function(a, b, h, implementation):
            a = jax.nn.sigmoid(2 * a)
            return ops.linear_recurrence(a[0, 0] if constant else a, b, h if start else None, implementation=implementation, **kwargs)

        return function, tuple(random(s, dtype, i) for i, s in enumerate(((2, length, 6), (2, length, 6), (2, 6))))

    def turning(a, b, h, implementation):
        spin = jax.nn.sigmoid(a) * jnp.exp(1j * a[::-1])
        h, last = ops.linear_recurrence(spin, b * (1 + 2j), h * 1j, real_bt=real, reset_bt=reset, implementation=implementation)
        return h.real + 2 * h.imag, last.imag

    return {
        "plain": case(),
        "one token": case(length=1),
        "constant decay": case(constant=True),
        "packed, padded": case(real_bt=real, reset_bt=reset),
        "no start, more than blocks": case(length=50, start=False),
        "complex": (turning, case()[1]),
    }
