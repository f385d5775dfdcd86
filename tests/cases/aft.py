"""Cases of ops.aft: (function of differentiable arrays and an implementation, those arrays) by name."""

import jax.numpy as jnp

from effllm import ops
from tests.tiny import random


def cases(dtype):
    def case(queries, segments):
        keys = segments.shape[1]

        def function(k, v, w, implementation):
            return ops.aft(
                3 * k, v, lambda s: w[:, :, s], q_order_bt=jnp.arange(keys - queries, keys)[None], k_order_bs=jnp.arange(keys)[None],
                q_segments_bt=segments[:, -queries:], k_segments_bs=segments, implementation=implementation,
            )  # fmt: skip

        return function, (random((2, keys, 4), dtype, 0), random((2, keys, 4), dtype, 1), random((1, queries, keys, 4), dtype, 2))

    packed = jnp.array([[1] * 50 + [2] * 207 + [0] * 10, [1] * 200 + [0] * 7 + [1] * 60])
    return {"blocks, packed, padded": case(267, packed), "one token": case(1, jnp.ones((2, 40), jnp.int32))}
