"""Softmax attention over keys and values in pages (PagedAttention, Kwon et al. 2023, arXiv 2309.06180)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from effllm.ops.attention import attend, reference
from effllm.ops.bias import Bias
from effllm.ops.blockwise import blockwise, wide
from effllm.ops.pattern import Pattern, join
from effllm.ops.where import Where

IMPLEMENTATIONS = ("reference", "xla")
AT_ONCE = 128  # keys that queries read in one block


def paged_attention(
    q_bthk: jax.Array,
    k_pngk: jax.Array,
    v_pngv: jax.Array,
    table_bm: jax.Array,
    *,
    q_order_bt: jax.Array,
    k_order_pn: jax.Array | None = None,
    q_segments_bt: jax.Array | None = None,
    k_segments_pn: jax.Array | None = None,
    q_positions_bt: jax.Array | None = None,
    k_positions_pn: jax.Array | None = None,
    causal: bool = True,
    window: int | None = None,
    pattern: Pattern | None = None,
    bias: Bias | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    return_lse: bool = False,
    implementation: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """ops.attention of row b's queries to the keys of pages table[b, 0], table[b, 1], … of a pool, one after another; (B, T, H, V) of q's dtype.

    A pool has P pages of N keys (P, N, G, K), and what is said of keys, orders, segments and positions, has pools too (P, N). Rows may share pages. A table
    entry outside 0 … P − 1 holds no page: nothing is seen there. Orders default to the keys' numbers in the row, m·N + n. Keys and values are used in q's
    dtype. Everything else is as in ops.attention.

    implementation: "reference" gathers each row's pages and builds all scores; "xla" (the default) reads about 128 keys of each row at a time, with a running
    softmax, up to the last page that any row holds, and gathers all of them in its backward pass, which decoding has not.

    Raises ValueError as ops.attention does.
    """
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"paged_attention has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
    where = Where(q_order_bt, k_order_pn, q_segments_bt, k_segments_pn, q_positions_bt, k_positions_pn)
    form = _reference if implementation == "reference" else _by_parts

    def core(q_bthk, k_pngk, v_pngv, params, where, rule):
        return form(q_bthk, k_pngk, v_pngv, params, table_bm, through(table_bm, where, k_pngk.shape, q_bthk.shape[1]), rule)

    o_bthv, lse_bth = attend(core, q_bthk, k_pngk, v_pngv, where, causal, window, pattern, bias, scale, soft_cap)
    return (o_bthv, lse_bth) if return_lse else o_bthv


def gathered(pool_pn: jax.Array, table_bm: jax.Array) -> jax.Array:
    """(B, M·N, …) of a pool (P, N, …): the pages in the rows' tables; any page for an entry that holds none."""
    return pool_pn[jnp.clip(table_bm, 0, len(pool_pn) - 1)].reshape(len(table_bm), -1, *pool_pn.shape[2:])


def through(table_bm: jax.Array, where: Where, pool: tuple[int, ...], queries: int) -> Where:
    """Where of the rows' keys (B or 1, M·N) from that of the pool's (P, N), segment 0 where there is no page."""
    pages, page = pool[:2]
    order_pn, segments_pn, positions_pn = (None if x is None else gathered(x, table_bm) for x in where[1::2])
    held_bs = jnp.repeat((table_bm >= 0) & (table_bm < pages), page, axis=1)
    segments_bs = jnp.where(held_bs, 1 if segments_pn is None else segments_pn, 0)
    q_segments_bt = np.ones((1, queries), np.int32) if where.q_segments_bt is None else where.q_segments_bt
    return Where(where.q_order_bt, order_pn, q_segments_bt, segments_bs, where.q_positions_bt, positions_pn).filled(queries, segments_bs.shape[1])


def _whole(core, q_bthk, k_pngk, v_pngv, params, table_bm, where, rule):
    k_bsgk, v_bsgv = (gathered(x, table_bm).astype(q_bthk.dtype) for x in (k_pngk, v_pngv))
    return core(q_bthk, k_bsgk, v_bsgv, params, where, rule)


_reference = functools.partial(_whole, reference)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _by_parts(q_bthk, k_pngk, v_pngv, params, table_bm, where, rule):
    page, dtype = k_pngk.shape[1], wide(q_bthk)
    at_once = max(1, AT_ONCE // page)
    more = -table_bm.shape[1] % at_once
    table_bm = jnp.pad(table_bm, ((0, 0), (0, more)))
    keys = [jnp.pad(jnp.asarray(x), ((0, 0), (0, more * page))) for x in where[1::2]]

    def part(n, carry):
        ids_bm = jax.lax.dynamic_slice_in_dim(table_bm, n * at_once, at_once, 1)
        order, segments, positions = (jax.lax.dynamic_slice_in_dim(x, n * at_once * page, at_once * page, 1) for x in keys)
        here = where._replace(k_order_bs=order, k_segments_bs=segments, k_positions_bs=positions)
        o_bthv, lse_bth = _whole(blockwise, q_bthk, k_pngk, v_pngv, params, ids_bm, here, rule)
        return join([carry, (o_bthv.astype(dtype), lse_bth)])

    held_n = (keys[1] > 0).reshape(len(table_bm), -1, at_once * page).any((0, 2))
    count = jnp.max(jnp.where(held_n, jnp.arange(1, len(held_n) + 1), 0))
    nothing = jnp.zeros((*q_bthk.shape[:3], v_pngv.shape[-1]), dtype), jnp.full(q_bthk.shape[:3], jnp.finfo(dtype).min, dtype)
    o_bthv, lse_bth = jax.lax.fori_loop(0, count, part, nothing)
    return o_bthv.astype(q_bthk.dtype), lse_bth


def _keeping(*arguments):
    return _by_parts(*arguments), arguments[:6]


def _pulled(rule, arguments, d_both):
    *inputs, table_bm, where = arguments
    return *jax.vjp(lambda *inputs: _whole(blockwise, *inputs, table_bm, where, rule), *inputs)[1](d_both), None, None


_by_parts.defvjp(_keeping, _pulled)
