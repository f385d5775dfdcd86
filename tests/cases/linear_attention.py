"""Cases of ops.linear_attention: (function of differentiable arrays and an implementation, those arrays) by name."""

import jax.numpy as jnp
import numpy as np

from effllm import ops
from tests.tiny import random

T, H, K, V = 37, 3, 5, 7
RESET = jnp.asarray(np.isin(np.arange(2 * T).reshape(2, T), [0, 9, 10, 24, 31, T, T + 8, T + 16]))
REAL = jnp.asarray(~np.isin(np.arange(2 * T).reshape(2, T), [3, 11, 12, 35, 36, T + 1, T + 20]))


def log_decays(dtype, shape, strongest):
    """From none to `strongest`, and as the op wants them: at least float32."""
    u = np.random.default_rng(9).uniform(size=shape)
    return jnp.asarray(-strongest * u**4, jnp.promote_types(dtype, jnp.float32))


def cases(dtype, op=ops.linear_attention):
    q, k = random((2, T, H, K), dtype, 0), random((2, T, H, K), dtype, 1)

    def real(o_bthv, real_bt):
        return o_bthv if real_bt is None else jnp.where(real_bt[..., None, None], o_bthv, 0)

    def case(*decay, strongest=4.0, bonus=False, real_bt=None, values=V, **kwargs):
        v, state = random((2, T, H, values), dtype, 2), random((2, H, K, values), jnp.promote_types(dtype, jnp.float32), 3)
        extra = (log_decays(dtype, decay, strongest),) if decay else ()
        extra += (random((H, K), dtype, 4),) if bonus else ()

        def function(q, k, v, state, *rest):
            rest, implementation = rest[:-1], rest[-1]
            options = {"bonus_hk": rest[-1] if bonus else None, "real_bt": real_bt, "implementation": implementation, **kwargs}
            o, last = op(q, k, v, rest[0] if decay else None, state_bhkv=state, **options)
            return real(o, real_bt), last

        return function, (q, k, v, state, *extra)

    return {
        "no decay, packed, padded": case(reset_bt=RESET, real_bt=REAL, chunk=16),
        "a decay a head": case(H, chunk=16, real_bt=REAL),
        "a decay a token, packed, padded, several parts": case(2, T, H, chunk=2, reset_bt=RESET, real_bt=REAL),
        "a decay a channel, one chunk": case(2, T, H, K),
        "a decay a channel, wide values": case(2, T, H, K, chunk=16, values=100),
        "strong decays a channel, packed, padded": case(2, T, H, K, strongest=300.0, chunk=16, reset_bt=RESET, real_bt=REAL),
        "a bonus, a decay a channel, packed, padded": case(2, T, H, K, bonus=True, chunk=8, reset_bt=RESET, real_bt=REAL),
        "a bonus, strong decays a token": case(2, T, H, bonus=True, chunk=4, strongest=300.0),
    }
