"""Cases of ops.paged_attention: (function of differentiable arrays and an implementation, those arrays) by name."""

import jax.numpy as jnp

from effllm import ops
from tests.tiny import random

P, PAGE = 14, 16
# Two rows of unequal length that share their first pages; P holds no page, in the first row between others too.
TABLE = jnp.array([[3, 0, 11, P, 7, 1, 13, 9, 2, P, P], [3, 0, 5, P, P, P, P, P, P, P, P]], jnp.int32)
SEGMENTS = jnp.ones((P, PAGE), jnp.int32).at[1:8].set(2).at[9, 11:].set(0)
ORDER = jnp.arange(P * PAGE).reshape(P, PAGE) % 97


def cases(dtype, op=ops.paged_attention):
    def case(t, heads, kv_heads, width, table=TABLE, pages=(P, PAGE), **kwargs):
        shapes = (len(table), t, heads, width), (*pages, kv_heads, width), (*pages, kv_heads, width + 3)

        def run(q, k, v, implementation):
            out, lse = op(q, k, v, table, return_lse=True, implementation=implementation, **kwargs)
            return out, jnp.maximum(lse, -100.0)

        return run, tuple(random(shape, dtype, seed) for seed, shape in enumerate(shapes))

    last = jnp.array([[142], [40]])
    return {
        "one query": case(1, 4, 2, 16, q_order_bt=last),
        "packed, padded, grouped 8:1, width 48, soft cap": case(
            4, 8, 1, 48, q_order_bt=last - 2 + jnp.arange(4), q_segments_bt=jnp.array([[1, 2, 3, 1], [2, 0, 1, 1]]), k_segments_pn=SEGMENTS, soft_cap=5.0
        ),
        "window, ALiBi, orders": case(
            3, 4, 2, 16, q_order_bt=last % 97 + jnp.arange(3), k_order_pn=ORDER, window=20, bias=ops.Bias(None, ops.ALiBiBias((0.5, 0.25, 0.1, 0.01)))
        ),
        "batch 1, pages of 8, width 80": case(2, 2, 2, 80, jnp.array([[4, 2, 0, -1, 1]]), (5, 8), q_order_bt=jnp.array([[36, 39]])),
        "more queries than a tile": case(70, 4, 2, 8, q_order_bt=last - 20 + jnp.arange(70)),
    }  # fmt: skip
