"""Cases of ops.linear_recurrence: (function of differentiable arrays and an implementation, those arrays) by name."""

import jax
import jax.numpy as jnp

from effllm import ops
from tests.tiny import random


def cases(dtype, op=ops.linear_recurrence):
    real = jnp.arange(29)[None] % jnp.array([[5], [40]]) != 3
    reset = jnp.arange(29)[None] % jnp.array([[9], [40]]) == 7

    def case(length=29, width=6, constant=False, start=True, **kwargs):
        def function(a, b, h, implementation):
            a = jax.nn.sigmoid(2 * a)
            return op(a[0, 0] if constant else a, b, h if start else None, implementation=implementation, **kwargs)

        return function, tuple(random(s, dtype, i) for i, s in enumerate(((2, length, width), (2, length, width), (2, width))))

    def turning(a, b, h, implementation):
        spin = jax.nn.sigmoid(a) * jnp.exp(1j * a[::-1])
        h, last = op(spin, b * (1 + 2j), h * 1j, real_bt=real, reset_bt=reset, implementation=implementation)
        return h.real + 2 * h.imag, last.imag

    found = {
        "one token": case(length=1),
        "constant decay": case(constant=True),
        "many channels, packed, padded": case(width=130, real_bt=real, reset_bt=reset),
        "no start, more than blocks": case(length=50, start=False),
    }
    # The kernel is real.
    return found | ({"plain": case(), "complex": (turning, case()[1])} if op is ops.linear_recurrence else {})
