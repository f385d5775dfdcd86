"""Cases of ops.dplr: (function of differentiable arrays and an implementation, those arrays) by name."""

import jax
import jax.numpy as jnp

from effllm import ops
from tests.cases.linear_attention import REAL, RESET, H, K, T, V, log_decays
from tests.tiny import random


def cases(dtype):
    q, k, read = (random((2, T, H, K), dtype, seed) for seed in (0, 1, 6))
    v, rate, state = random((2, T, H, V), dtype, 2), random((2, T, H, K), dtype, 5), random((2, H, K, V), jnp.promote_types(dtype, jnp.float32), 3)

    def case(*decay, strongest=4.0, real_bt=None, **kwargs):
        def function(q, k, v, read, rate, state, log_decay, implementation):
            read = read / jnp.linalg.norm(read, axis=-1, keepdims=True)
            write = -read * jax.nn.sigmoid(rate)
            o, last = ops.dplr(q, k, v, read, write, log_decay, state_bhkv=state, real_bt=real_bt, implementation=implementation, **kwargs)
            return (o if real_bt is None else jnp.where(real_bt[..., None, None], o, 0)), last

        return function, (q, k, v, read, rate, state, log_decays(dtype, decay, strongest))

    return {
        "a decay a token, one chunk": case(2, T, H),
        "strong decays a channel, packed, padded, several parts": case(2, T, H, K, strongest=300.0, chunk=8, together=10, reset_bt=RESET, real_bt=REAL),
    }
