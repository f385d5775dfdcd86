"""Cases of ops.delta_rule: (function of differentiable arrays and an implementation, those arrays) by name."""

import jax
import jax.numpy as jnp

from effllm import ops
from tests.cases.linear_attention import REAL, RESET, H, K, T, V, log_decays
from tests.tiny import random


def cases(dtype, op=ops.delta_rule):
    q, k, beta = random((2, T, H, K), dtype, 0), random((2, T, H, K), dtype, 1), random((2, T, H), dtype, 5)

    def case(*decay, most=1.0, strongest=4.0, real_bt=None, values=V, **kwargs):
        v, state = random((2, T, H, values), dtype, 2), random((2, H, K, values), jnp.promote_types(dtype, jnp.float32), 3)

        def function(q, k, v, beta, state, *rest):
            k = k / jnp.linalg.norm(k, axis=-1, keepdims=True)
            beta = most * jax.nn.sigmoid(beta)
            decay_given, implementation = rest[0] if decay else None, rest[-1]
            o, last = op(q, k, v, beta, decay_given, state_bhkv=state, real_bt=real_bt, implementation=implementation, **kwargs)
            return (o if real_bt is None else jnp.where(real_bt[..., None, None], o, 0)), last

        return function, (q, k, v, beta, state, *((log_decays(dtype, decay, strongest),) if decay else ()))

    return {
        "plain, packed, padded, negative eigenvalues, several parts": case(reset_bt=RESET, real_bt=REAL, chunk=2, most=2.0),
        "gated, one chunk": case(2, T, H),
        "gated, wide values": case(2, T, H, chunk=16, values=100),
        "strong decays a channel, packed, padded": case(2, T, H, K, strongest=300.0, chunk=8, reset_bt=RESET, real_bt=REAL),
    }
