"""Cases of ops.attention: (function of differentiable arrays and an implementation, those arrays) by name."""

import jax.numpy as jnp

from effllm import ops
from tests.tiny import random

T = 300
SEGMENTS = jnp.array([[1] * 80 + [0] * 3 + [2] * 200 + [0] * 17, [4] * T], jnp.int32)
POSITIONS = jnp.array([[*range(80), *[0] * 3, *range(200), *[0] * 17], [*range(T)]], jnp.int32)
PACKED = {"q_segments_bt": SEGMENTS, "k_segments_bs": SEGMENTS, "q_positions_bt": POSITIONS, "k_positions_bs": POSITIONS}

# What kernels are tried with: among them each thing that they do.
KERNELS = (
    "grouped 8:1, packed, padded", "prefill of a state", "window on both sides", "causal, batch 1, width 48", "causal, batch 1, width 80", "ALiBi, packed, grouped",
    "BlockLocal, packed", "StreamingLLM, packed", "Longformer, both ways", "Strided, packed", "Dilated, packed", "Fixed, packed", "BigBird, packed",
    "few queries, window, soft cap", "few queries, packed, padded, grouped 8:1, width 48", "few queries, ALiBi, StreamingLLM", "one query, batch 1, width 80",
)  # fmt: skip


def linear(params, q_bthk, k_bsgk, i_bt, j_bs):
    """A slope a head, and what a query says of the parity of the distance."""
    slope_h, parity_kn, q_bthk = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (*params, q_bthk))
    behind_bts = i_bt[:, :, None] - j_bs[:, None]
    said_bhtn = jnp.einsum("bthk,kn->bhtn", q_bthk, parity_kn)
    chosen_bhts = jnp.where(behind_bts[:, None] % 2 == 0, said_bhtn[..., :1], said_bhtn[..., 1:])
    return chosen_bhts - slope_h[:, None, None] * abs(behind_bts[:, None]).astype(slope_h.dtype) / 20


def of_keys(params, q_bthk, k_bsgk, i_bt, j_bs):
    """What a key says of itself, the same for all heads, and nothing of the query."""
    k_bsgk, params = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (k_bsgk, params))
    return jnp.einsum("bsgk,k->bs", k_bsgk, params)[:, None, None] + jnp.zeros((1, 1, i_bt.shape[1], 1), params.dtype)


def with_logsumexp(dtype, op):
    """Patterns and biases, whose logsumexp counts too."""

    def case(heads=2, kv_heads=2, function=None, shape=(), t=T, s=T, **kwargs):
        arrays = random((2, t, heads, 8), dtype, 0), random((2, s, kv_heads, 8), dtype, 1), random((2, s, kv_heads, 5), dtype, 2)
        params = tuple(random(n, dtype, 3) for n in shape)

        def run(q, k, v, *rest):
            *params, implementation = rest
            bias = None if function is None else ops.Bias(params[0] if len(params) == 1 else tuple(params) or None, function)
            out, lse = op(q, k, v, bias=bias, implementation=implementation, return_lse=True, **kwargs)
            return out, jnp.maximum(lse, -100.0)

        return run, (*arrays, *params)

    at = {"q_order_bt": jnp.arange(140)[None] + jnp.array([[3], [60]]), "t": 140, "s": 200}
    return {
        "BlockLocal, packed": case(4, 2, pattern=ops.BlockLocal(50), **PACKED),
        "StreamingLLM, packed": case(pattern=ops.StreamingLLM(20, 3), **PACKED),
        "Longformer, both ways": case(pattern=ops.Longformer(30, (0, 170)), causal=False),
        "Longformer, local queries": case(pattern=ops.LocalQueries(30, (0, 170)), causal=False),
        "Longformer, global queries": case(pattern=ops.GlobalQueries(30, (0, 170)), causal=False),
        "BigBird, packed": case(pattern=ops.BigBird(16, 1, 1, 2), **PACKED),
        "Strided, packed": case(4, 2, pattern=ops.Strided(7), **PACKED),
        "Strided": case(pattern=ops.Strided(7)),
        "Dilated, packed": case(pattern=ops.Dilated(90, 4), **PACKED),
        "Fixed, packed": case(4, 1, pattern=ops.Fixed(40, 6), **PACKED),
        "Fixed, bias": case(4, 2, linear, ((4,), (8, 2)), pattern=ops.Fixed(40, 6)),
        "ALiBi, packed, grouped": case(4, 2, ops.ALiBiBias((0.5, 0.25, 0.1, 0.01)), soft_cap=4.0, **PACKED),
        "bias, packed, grouped": case(4, 2, linear, ((4,), (8, 2)), soft_cap=4.0, **PACKED),
        "bias of keys, both ways": case(4, 2, of_keys, ((8,),), causal=False),
        "bias, prefill of a state": case(4, 2, linear, ((4,), (8, 2)), **at),
    }


def cases(dtype, op=ops.attention):
    segments = jnp.array([[1] * 70 + [2] * 190 + [0] * 13, [0] * 3 + [4] * 270], jnp.int32)

    def case(t, s, heads, kv_heads, width, batch=2, **kwargs):
        arrays = tuple(random((batch, n, h, k), dtype, i) for i, (n, h, k) in enumerate(((t, heads, width), (s, kv_heads, width), (s, kv_heads, width + 3))))
        return lambda q, k, v, implementation: op(q, k, v, implementation=implementation, **kwargs), arrays

    s, halves = jnp.arange(333), 1 + jnp.arange(1050)[None] // 525
    documents = jnp.stack([1 + s // 100, jnp.where(s < 7, 0, 1 + s // 180)])
    few = {
        "few queries, window, soft cap": case(5, 333, 6, 3, 16, q_order_bt=jnp.array([[328], [150]]) + jnp.arange(5), window=70, soft_cap=5.0),
        # Queries of an earlier document, of padding, of the last document and of one without keys: two of a row see nothing.
        "few queries, packed, padded, grouped 8:1, width 48": case(
            4, 333, 8, 1, 48, q_order_bt=jnp.array([[320, 321, 322, 323], [332, 333, 334, 335]]),
            q_segments_bt=jnp.array([[3, 0, 4, 9], [2, 2, 1, 0]]), k_segments_bs=documents,
        ),
        "few queries, ALiBi, StreamingLLM": case(
            3, 333, 4, 2, 16, q_order_bt=jnp.array([[297, 310, 332]]), q_segments_bt=jnp.array([[3, 4, 4], [2, 0, 2]]), k_segments_bs=documents,
            q_positions_bt=jnp.array([[97, 10, 32]]), k_positions_bs=s[None] % 100, pattern=ops.StreamingLLM(20, 3), bias=ops.Bias(None, ops.ALiBiBias((0.5, 0.25, 0.1, 0.01))),
        ),
        "one query, batch 1, width 80": case(1, 150, 4, 2, 80, 1, q_order_bt=jnp.array([[149]])),
    }  # fmt: skip
    return few | {
        "causal, T no multiple of the block": case(273, 273, 4, 4, 16),
        "causal, batch 1, width 48": case(150, 150, 4, 2, 48, 1),
        "causal, batch 1, width 80": case(150, 150, 2, 1, 80, 1),
        "blocks of more keys than queries": case(1050, 1050, 2, 1, 4, 1, q_segments_bt=halves, k_segments_bs=halves),
        "grouped 8:1, packed, padded": case(273, 273, 8, 1, 12, q_segments_bt=segments, k_segments_bs=segments),
        "bidirectional, soft cap": case(150, 70, 2, 2, 8, causal=False, soft_cap=5.0),
        "window, packed, padded": case(273, 273, 4, 2, 8, q_segments_bt=segments, k_segments_bs=segments, window=70),
        "window on both sides": case(200, 150, 2, 2, 8, causal=False, window=20),
        "keys in another order": case(40, 150, 2, 2, 8, q_order_bt=jnp.arange(100, 140)[None], k_order_bs=jnp.arange(150)[None, ::-1] % 150, window=33),
        "decoding": case(1, 40, 4, 2, 8, q_order_bt=jnp.array([[39], [17]])),
        "prefill of a state": case(140, 200, 4, 2, 8, q_order_bt=jnp.arange(140)[None] + jnp.array([[3], [60]]), scale=0.2),
    } | with_logsumexp(dtype, op)
