"""Cases of ops.long_conv: (function of differentiable arrays and an implementation, those arrays) by name."""

import jax.numpy as jnp

from effllm import ops
from effllm.ops.long_conv import Past
from tests.tiny import random


def cases(dtype):
    real = jnp.arange(301)[None] % jnp.array([[5], [400]]) != 3
    reset = jnp.arange(301)[None] % jnp.array([[150], [400]]) == 107

    def case(length, taps, **kwargs):
        def function(x, f, implementation):
            y, _ = ops.long_conv(x, f, implementation=implementation, **kwargs)
            return jnp.where(kwargs.get("real_bt", jnp.array([[True]]))[..., None], y, 0)

        return function, (random((2, length, 4), dtype, 0), random((taps, 4), dtype, 1))

    def streamed(first, second):
        def function(x, f, implementation):
            n, past = first + second, Past.empty(2, 40, 4, dtype)
            _, past = ops.long_conv(x[:, :first], f, past, real_bt=real[:, :first], reset_bt=reset[:, :first], implementation=implementation)
            y, past = ops.long_conv(x[:, first:n], f, past, real_bt=real[:, first:n], reset_bt=reset[:, 101 : 101 + second], implementation=implementation)
            return jnp.where(real[:, first:n, None], y, 0), past.x_bsd

        return function, case(40, 40)[1]

    return {
        "FFTs, packed, padded": case(301, 301, real_bt=real, reset_bt=reset),
        "filter shorter than the text": case(150, 40),
        "filter longer than the text": case(5, 77),
        "from a past": streamed(20, 13),
    }
