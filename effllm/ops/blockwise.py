"""Attention by pairs of blocks with a running softmax, forward and backward (FlashAttention-2, Dao 2023, arXiv 2307.08691)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from effllm.ops.pattern import Pattern
from effllm.ops.where import Where

FAR = 2**29


class Rule(NamedTuple):
    """How scores are made: query heads that share a key, whether later keys are hidden, how far back one sees, the pattern of positions that see
    each other, the scale, the cap, and the function of a Bias."""

    group: int
    causal: bool
    window: int | None
    pattern: Pattern | None
    scale: float
    soft_cap: float | None
    bias: Callable | None = None


def wide(x: jax.Array):
    """At least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)


def meet(where: Where, rule: Rule) -> jax.Array | None:
    """Whether queries see keys, their numbers being arrays that broadcast against each other; None where all see all."""
    q_order, k_order, q_segments, k_segments, q_positions, k_positions = where
    seen = []
    if rule.causal:
        seen.append(k_order <= q_order)
    if rule.window is not None:
        behind = q_order - k_order
        seen.append((behind if rule.causal else abs(behind)) < rule.window)
    if rule.pattern is not None:
        seen.append(rule.pattern.sees(q_positions, k_positions))
    if q_segments is not None:
        seen.append((q_segments == k_segments) & (q_segments > 0))
    return functools.reduce(lambda a, b: a & b, seen) if seen else None


def seen_by(where: Where, rule: Rule) -> jax.Array | None:
    """(B or 1, T, S) which keys each query sees; None where it sees all."""
    sides = (None if x is None else x[:, None] if n % 2 else x[..., None] for n, x in enumerate(where))
    return meet(Where(*sides), rule)


class Range(NamedTuple):
    """The least and greatest number in each block (B or 1, N), of the tokens that are there; least above greatest where none is."""

    least: Any
    most: Any

    @classmethod
    def of(cls, x_bt, real_bt, size: int) -> "Range":
        xp = jnp if isinstance(x_bt, jax.Array) or isinstance(real_bt, jax.Array) else np
        x_bt, real_bt = xp.broadcast_arrays(x_bt, real_bt)
        padding = ((0, 0), (0, -x_bt.shape[1] % size))
        x_bns = xp.pad(x_bt, padding).reshape(x_bt.shape[0], -1, size)
        real_bns = xp.pad(real_bt, padding).reshape(x_bns.shape)
        return cls(xp.where(real_bns, x_bns, FAR).min(-1), xp.where(real_bns, x_bns, -FAR).max(-1))


def active(where: Where, rule: Rule, shape: tuple[int, int], sizes: tuple[int, int]) -> Any:
    """(B or 1, N, M) whether any query of block i may see any key of block j, from what each block holds at least and at most.

    shape: how many queries and keys there are; sizes: how many a block holds. NumPy where nothing that decides it is data.
    """
    q_order, k_order, q_segments, k_segments, q_positions, k_positions = where.filled(*shape)
    q_real = np.ones((1, shape[0]), bool) if q_segments is None else q_segments > 0
    k_real = np.ones((1, shape[1]), bool) if k_segments is None else k_segments > 0

    def ranges(q_bt, k_bs):
        q, k = Range.of(q_bt, q_real, sizes[0]), Range.of(k_bs, k_real, sizes[1])
        return Range(q.least[:, :, None], q.most[:, :, None]), Range(k.least[:, None], k.most[:, None])

    q, k = ranges(q_order, k_order)
    may = (q.least <= q.most) & (k.least <= k.most)
    if rule.causal:
        may = may & (k.least <= q.most)
    if rule.window is not None:
        may = may & (q.least - k.most < rule.window) & (rule.causal | (k.least - q.most < rule.window))
    if rule.pattern is not None:
        q, k = ranges(q_positions, k_positions)
        may = may & rule.pattern.may_see(q.least, q.most, k.least, k.most)
    if q_segments is not None:
        q, k = ranges(q_segments, k_segments)
        may = may & (q.least <= k.most) & (k.least <= q.most)
    return may


class Blocks:
    """T queries and S keys in whole blocks, the first axis, and which of those may see each other. A block's query rows are m = (t, r): query heads that
    share keys stand side by side as rows of one matrix, so that every product is a plain batched one."""

    def __init__(self, queries: int, keys: int, where: Where, rule: Rule):
        self.rule, self.keys, self.queries = rule, keys, queries
        q_size, k_size = self._sizes()
        self.q_size, self.k_size = min(queries, q_size), min(keys, k_size)
        self.q_padding, self.k_padding = -queries % self.q_size, -keys % self.k_size
        self.where = where.filled(queries, keys)
        self.may = active(self.where, rule, (queries, keys), (self.q_size, self.k_size)).any(0)

    def _sizes(self) -> tuple[int, int]:
        """How many queries and keys make a block: large blocks make quick products, small ones waste least of the causal square and of a window's edges."""
        if self.few:
            return self.queries, 512
        if self.rule.pattern is not None:
            return 128, 128
        most = 512 if self.rule.window is None else max(64, self.rule.window // 2 // 64 * 64)
        k_size = min(max(64, self.keys // 4 // 64 * 64), 512, most)
        return min(max(128, self.queries // 8 // 64 * 64), k_size), k_size

    @property
    def few(self) -> bool:
        """Whether there are few queries, as in decoding: keys are then read where they lie, not brought together by head first."""
        return self.queries < 64

    @staticmethod
    def seen_first(may):
        """((N, M) numbers of the M blocks, those that block n may see first; (N,) how many those are). NumPy where nothing that decides it is data."""
        if isinstance(may, np.ndarray):
            count = may.sum(1, dtype=np.int32)
            return np.argsort(~may, axis=1, kind="stable")[:, : max(1, count.max())].astype(np.int32), count
        return jnp.argsort(~may, axis=1, stable=True), jnp.sum(may, axis=1)

    def of_queries(self, x_bthk, fill=0.0):
        """(N, B, G, M, K) from (B, T, H, K)."""
        (b, _, h, k), r = x_bthk.shape, self.rule.group
        x_bthk = jnp.pad(x_bthk, ((0, 0), (0, self.q_padding), (0, 0), (0, 0)), constant_values=fill) if self.q_padding else x_bthk
        x_bntgrk = x_bthk.reshape(b, -1, self.q_size, h // r, r, k)
        return jnp.transpose(x_bntgrk, (1, 0, 3, 2, 4, 5)).reshape(-1, b, h // r, self.q_size * r, k)

    def by_time(self, x_nbgmk):
        """(B, T, H, K) from (N, B, G, M, K)."""
        n, b, g, _, k = x_nbgmk.shape
        x_nbgtrk = x_nbgmk.reshape(n, b, g, self.q_size, self.rule.group, k)
        return jnp.transpose(x_nbgtrk, (1, 0, 3, 2, 4, 5)).reshape(b, n * self.q_size, -1, k)[:, : self.queries]

    def of_keys(self, x_bsgk):
        """(N, B, G, S, K) from (B, S, G, K)."""
        x_bsgk = jnp.pad(x_bsgk, ((0, 0), (0, self.k_padding), (0, 0), (0, 0))) if self.k_padding else x_bsgk
        b, _, g, k = x_bsgk.shape
        return jnp.transpose(x_bsgk.reshape(b, -1, self.k_size, g, k), (1, 0, 3, 2, 4))

    def by_key(self, x_nbgsk):
        """(B, S, G, K) from (N, B, G, S, K)."""
        n, b, g, s, k = x_nbgsk.shape
        return jnp.transpose(x_nbgsk, (1, 0, 3, 2, 4)).reshape(b, n * s, g, k)[:, : self.keys]

    def reader(self, x_bsgk):
        """A function of j that gives the keys of block j, (B, G, S, K)."""
        if not self.few:
            x_nbgsk = self.of_keys(x_bsgk)
            return lambda j: block(x_nbgsk, j)
        x_bsgk = jnp.pad(x_bsgk, ((0, 0), (0, self.k_padding), (0, 0), (0, 0))) if self.k_padding else x_bsgk
        return lambda j: jnp.swapaxes(jax.lax.dynamic_slice_in_dim(x_bsgk, j * self.k_size, self.k_size, 1), 1, 2)

    def part(self, i, j) -> Where:
        """Where the queries of block i and the keys of block j are."""

        def cut(a_bt, padding, index, size):
            if a_bt is None:
                return None
            a_bt = jnp.pad(jnp.asarray(a_bt), ((0, 0), (0, padding))) if padding else jnp.asarray(a_bt)
            return jax.lax.dynamic_slice_in_dim(a_bt, index * size, size, 1)

        sides = (self.q_padding, i, self.q_size), (self.k_padding, j, self.k_size)
        return Where(*(cut(a, *sides[n % 2]) for n, a in enumerate(self.where)))

    def seen(self, part: Where, j):
        """(B or 1, 1, M, S) which keys of block j the rows see; None where all."""
        seen_bts = seen_by(part, self.rule)
        if self.k_padding:
            real_s = j * self.k_size + jnp.arange(self.k_size) < self.keys
            seen_bts = jnp.broadcast_to(real_s, (1, self.q_size, self.k_size)) if seen_bts is None else seen_bts & real_s
        return None if seen_bts is None else jnp.repeat(seen_bts, self.rule.group, axis=1)[:, None]

    def bias(self, params, q_bgmk, k_bgsk, part: Where):
        """(B or 1, G or 1, M, S) of these rows."""
        (b, g, m, _), r = q_bgmk.shape, self.rule.group
        q_bthk = jnp.moveaxis(q_bgmk.reshape(b, g, m // r, r, -1), 1, 2).reshape(b, m // r, g * r, -1)
        b_bhts = self.rule.bias(params, q_bthk, jnp.swapaxes(k_bgsk, 1, 2), part.q_positions_bt, part.k_positions_bs)
        b, h, t, s = b_bhts.shape
        if h == 1:
            return jnp.repeat(b_bhts, r, axis=2)
        return jnp.moveaxis(b_bhts.reshape(b, g, r, t, s), 2, 3).reshape(b, g, m, s)

    def scores(self, q_bgmk, k_bgsk, params, i, j, turned: bool = False):
        """(scores (B, G, M, S) with −inf where hidden, derivative of the cap or None, pullback of the bias or None); `turned` gives (B, G, S, M)."""

        def turn(x_bgms):
            return jnp.swapaxes(x_bgms, -1, -2) if turned else x_bgms

        rows, columns = (k_bgsk, q_bgmk) if turned else (q_bgmk, k_bgsk)
        z, part = jnp.einsum("bgik,bgjk->bgij", rows, columns, preferred_element_type=wide(q_bgmk)) * self.rule.scale, self.part(i, j)
        slope = back = None
        if self.rule.bias is not None:
            added, back = jax.vjp(lambda *a: jnp.broadcast_to(turn(self.bias(*a, part)), z.shape).astype(z.dtype), params, q_bgmk, k_bgsk)
            z = z + added
        if self.rule.soft_cap is not None:
            squashed = jnp.tanh(z / self.rule.soft_cap)
            z, slope = self.rule.soft_cap * squashed, 1 - squashed**2
        seen = self.seen(part, j)
        return z if seen is None else jnp.where(turn(seen), z, -jnp.inf), slope, back


def block(x_n, n):
    """x_n[n]."""
    return jax.lax.dynamic_index_in_dim(x_n, n, 0, keepdims=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def blockwise(q_bthk, k_bsgk, v_bsgv, params: Any, where: Where, rule: Rule) -> tuple[jax.Array, jax.Array]:
    """(attention (B, T, H, V), logsumexp (B, T, H)); see ops.attention."""
    return _forward(q_bthk, k_bsgk, v_bsgv, params, where, rule)[0]


def _forward(q_bthk, k_bsgk, v_bsgv, params, where, rule):
    """Block after block of queries, each with a running softmax over the blocks of keys that it may see."""
    blocks = Blocks(q_bthk.shape[1], k_bsgk.shape[1], where, rule)
    q_nbgmk, k, v, dtype = blocks.of_queries(q_bthk), blocks.reader(k_bsgk), blocks.reader(v_bsgv), wide(q_bthk)
    lowest, rows = jnp.finfo(dtype).min, q_nbgmk.shape[1:4]

    def row(_, of_i):
        i, q_bgmk, seen_m, count = of_i

        def step(n, carry):
            top, total, values = carry
            z, _, _ = blocks.scores(q_bgmk, k(seen_m[n]), params, i, seen_m[n])
            higher = jnp.maximum(top, jnp.max(z, axis=-1, keepdims=True))
            e, kept = jnp.exp(z - higher), jnp.exp(top - higher)
            more = jnp.einsum("bgms,bgsv->bgmv", e.astype(v_bsgv.dtype), v(seen_m[n]), preferred_element_type=dtype)
            return higher, total * kept + jnp.sum(e, axis=-1, keepdims=True), values * kept + more

        start = jnp.full((*rows, 1), lowest, dtype), jnp.zeros((*rows, 1), dtype), jnp.zeros((*rows, v_bsgv.shape[-1]), dtype)
        top, total, values = jax.lax.fori_loop(0, count, step, start)
        norm = jnp.where(total == 0, 1, total)  # a row that sees nothing gives 0
        return None, ((values / norm).astype(v_bsgv.dtype), top + jnp.log(norm))

    _, both = jax.lax.scan(row, None, (np.arange(len(q_nbgmk)), q_nbgmk, *blocks.seen_first(blocks.may)))
    out_bthv, lse_bth1 = map(blocks.by_time, both)
    return (out_bthv, lse_bth1[..., 0]), (q_bthk, k_bsgk, v_bsgv, params, where, out_bthv, lse_bth1)


def _backward(rule, residuals, d_both):
    """Block after block of keys, each over the blocks of queries that may see it; the scores are recomputed, with keys as rows: then dk, dv and the
    transposed dq are products that transpose neither factor, which a CPU would otherwise do for each."""
    q_bthk, k_bsgk, v_bsgv, params, where, out_bthv, lse_bth1 = residuals
    d_out_bthv, d_lse_bth = d_both
    blocks, dtype = Blocks(q_bthk.shape[1], k_bsgk.shape[1], where, rule), lse_bth1.dtype
    q_nbgmk, d_nbgmv, out_nbgmv = map(blocks.of_queries, (q_bthk, d_out_bthv, out_bthv))
    shift_nbgm1 = jnp.sum(d_nbgmv.astype(dtype) * out_nbgmv.astype(dtype), axis=-1, keepdims=True) - blocks.of_queries(d_lse_bth[..., None])
    # Rows that fill up the last block weigh nothing.
    lse_nbg1m, shift_nbg1m = (jnp.swapaxes(x, -1, -2) for x in (blocks.of_queries(lse_bth1, jnp.inf), shift_nbgm1))

    def column(carry, of_j):
        j, k_bgsk, v_bgsv, seeing_n, count = of_j
        # An array of its own: XLA would fold the transposition into the product below and could not run that one in bfloat16 on a CPU.
        k_bgks = jax.lax.optimization_barrier(jnp.swapaxes(k_bgsk, -1, -2))

        def step(n, carry):
            dq_nbgkm, d_params, dk, dv = carry
            i = seeing_n[n]
            q_bgmk, d_bgmv = block(q_nbgmk, i), block(d_nbgmv, i)
            z, slope, back = blocks.scores(q_bgmk, k_bgsk, params, i, j, turned=True)
            p = jnp.exp(z - block(lse_nbg1m, i))
            dz = p * (jnp.einsum("bgsv,bgmv->bgsm", v_bgsv, d_bgmv, preferred_element_type=dtype) - block(shift_nbg1m, i))
            dz = dz if slope is None else dz * slope
            scaled = (dz * rule.scale).astype(q_bthk.dtype)
            dq = block(dq_nbgkm, i) + jnp.einsum("bgks,bgsm->bgkm", k_bgks, scaled, preferred_element_type=dtype)
            dk = dk + jnp.einsum("bgsm,bgmk->bgsk", scaled, q_bgmk, preferred_element_type=dtype)
            dv = dv + jnp.einsum("bgsm,bgmv->bgsv", p.astype(d_bgmv.dtype), d_bgmv, preferred_element_type=dtype)
            if back is not None:
                more, dq_more, dk_more = back(dz)
                d_params = jax.tree.map(lambda total, d: total + d.astype(total.dtype), d_params, more)
                dq, dk = dq + jnp.swapaxes(dq_more, -1, -2).astype(dtype), dk + dk_more.astype(dtype)
            return jax.lax.dynamic_update_index_in_dim(dq_nbgkm, dq, i, 0), d_params, dk, dv

        *carry, dk, dv = jax.lax.fori_loop(0, count, step, (*carry, *(jnp.zeros(x.shape, dtype) for x in (k_bgsk, v_bgsv))))
        return tuple(carry), (dk.astype(k_bsgk.dtype), dv.astype(v_bsgv.dtype))

    n, *batch, m, k = q_nbgmk.shape
    zeros = jnp.zeros((n, *batch, k, m), dtype), jax.tree.map(lambda p: jnp.zeros(p.shape, wide(p)), params)
    k_nbgsk, v_nbgsv = blocks.of_keys(k_bsgk), blocks.of_keys(v_bsgv)
    of_blocks = np.arange(len(k_nbgsk)), k_nbgsk, v_nbgsv, *blocks.seen_first(blocks.may.T)
    (dq_nbgkm, d_params), d_kv = jax.lax.scan(column, zeros, of_blocks)
    dk, dv = map(blocks.by_key, d_kv)
    d_params = jax.tree.map(lambda d, p: d.astype(p.dtype), d_params, params)
    return blocks.by_time(jnp.swapaxes(dq_nbgkm, -1, -2)).astype(q_bthk.dtype), dk, dv, d_params, None


blockwise.defvjp(_forward, _backward)
