"""Cases of ops.attention: (function of differentiable arrays and an implementation, those arrays) by name."""

import jax.numpy as jnp

from effllm import ops
from tests.tiny import random


def cases(dtype):
    segments = jnp.array([[1] * 70 + [2] * 190 + [0] * 13, [0] * 3 + [4] * 270], jnp.int32)

    def case(t, s, heads, kv_heads, width, **kwargs):
        arrays = random((2, t, heads, width), dtype, 0), random((2, s, kv_heads, width), dtype, 1), random((2, s, kv_heads, width + 3), dtype, 2)
        return lambda q, k, v, implementation: ops.attention(q, k, v, implementation=implementation, **kwargs), arrays

    return {
        "causal, T no multiple of the block": case(273, 273, 4, 4, 16),
        "grouped 8:1, packed, padded": case(273, 273, 8, 1, 12, q_segments_bt=segments, k_segments_bs=segments),
        "bidirectional, soft cap": case(150, 70, 2, 2, 8, causal=False, soft_cap=5.0),
        "window, packed, padded": case(273, 273, 4, 2, 8, q_segments_bt=segments, k_segments_bs=segments, window=70),
        "window on both sides": case(200, 150, 2, 2, 8, causal=False, window=20),
        "keys in another order": case(40, 150, 2, 2, 8, q_order_bt=jnp.arange(100, 140)[None], k_order_bs=jnp.arange(150)[None, ::-1] % 150, window=33),
        "decoding": case(1, 40, 4, 2, 8, q_order_bt=jnp.array([[39], [17]])),
        "prefill of a state": case(140, 200, 4, 2, 8, q_order_bt=jnp.arange(140)[None] + jnp.array([[3], [60]]), scale=0.2),
    }
