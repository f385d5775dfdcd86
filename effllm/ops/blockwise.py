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
    """The blocks of T queries (rows m = (t, r)) and S keys, padded to whole blocks, and the pairs that may see each other."""

    def __init__(self, queries: int, keys: int, where: Where, rule: Rule):
        self.rule, self.keys, self.queries = rule, keys, queries
        # Small blocks waste least of the causal square; few queries take many keys at once.
        self.q_size = min(queries, 64 if queries <= 512 else 128)
        self.k_size = min(keys, 512 if self.few else self.q_size)
        self.q_padding, self.k_padding = -queries % self.q_size, -keys % self.k_size
        self.where = where.filled(queries, keys)
        self.pairs, self.count = self._pairs()

    def _pairs(self):
        """((P, 2) pairs (i, j) in order of i, those that may see each other first; how many those are).

        NumPy, and only those, where nothing that decides it is data.
        """
        may = active(self.where, self.rule, (self.queries, self.keys), (self.q_size, self.k_size)).any(0)
        if isinstance(may, np.ndarray):
            pairs = np.argwhere(may).astype(np.int32)
            return pairs, len(pairs)
        pairs = np.argwhere(np.ones(may.shape, bool)).astype(np.int32)
        chosen = may[*pairs.T]
        return jnp.asarray(pairs)[jnp.argsort(~chosen, stable=True)], jnp.sum(chosen)

    @property
    def few(self) -> bool:
        """Whether there are few queries, as in decoding: keys are then read where they lie, not brought together by head first."""
        return self.queries < 64

    def walk(self, step: Callable, carry: Any) -> Any:
        """Fold step(carry, i, j, first pair of its i) over the pairs that may see each other."""
        if isinstance(self.pairs, np.ndarray):
            i, j = self.pairs.T
            return jax.lax.scan(lambda carry, x: (step(carry, *x), None), carry, (i, j, np.diff(i, prepend=-1) != 0))[0]

        def body(n, carry):
            i, j = self.pairs[n]
            return step(carry, i, j, (n == 0) | (self.pairs[n - 1, 0] != i))

        return jax.lax.fori_loop(0, self.count, body, carry)

    def pad(self, x_bgmk):
        """Rows of queries up to whole blocks."""
        rows = self.q_padding * self.rule.group
        return jnp.pad(x_bgmk, ((0, 0), (0, 0), (0, rows), (0, 0))) if rows else x_bgmk

    def by_head(self, x_bsgk):
        """(B, G, S, K) keys up to whole blocks."""
        return jnp.pad(jnp.swapaxes(x_bsgk, 1, 2), ((0, 0), (0, 0), (0, self.k_padding), (0, 0)))

    def reader(self, x_bsgk):
        """A function of j that gives the keys of block j, (B, G, S, K)."""
        if not self.few:
            x_bgsk = self.by_head(x_bsgk)
            return lambda j: self.k(x_bgsk, j)
        x_bsgk = jnp.pad(x_bsgk, ((0, 0), (0, self.k_padding), (0, 0), (0, 0))) if self.k_padding else x_bsgk
        return lambda j: jnp.swapaxes(jax.lax.dynamic_slice_in_dim(x_bsgk, j * self.k_size, self.k_size, 1), 1, 2)

    def q(self, x_bgmk, i):
        """Query rows of block i."""
        size = self.q_size * self.rule.group
        return jax.lax.dynamic_slice_in_dim(x_bgmk, i * size, size, 2)

    def k(self, x_bgsk, j):
        """Key rows of block j."""
        return jax.lax.dynamic_slice_in_dim(x_bgsk, j * self.k_size, self.k_size, 2)

    def put_q(self, x_bgmk, part, i):
        return jax.lax.dynamic_update_slice_in_dim(x_bgmk, part, i * self.q_size * self.rule.group, 2)

    def put_k(self, x_bgsk, part, j):
        return jax.lax.dynamic_update_slice_in_dim(x_bgsk, part, j * self.k_size, 2)

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

    def scores(self, q_bgmk, k_bgsk, params, i, j):
        """(scores (B, G, M, S) with −inf where hidden, derivative of the cap or None, pullback of the bias or None)."""
        z, part = jnp.einsum("bgmk,bgsk->bgms", q_bgmk, k_bgsk, preferred_element_type=wide(q_bgmk)) * self.rule.scale, self.part(i, j)
        slope = back = None
        if self.rule.bias is not None:
            added, back = jax.vjp(lambda *a: jnp.broadcast_to(self.bias(*a, part), z.shape).astype(z.dtype), params, q_bgmk, k_bgsk)
            z = z + added
        if self.rule.soft_cap is not None:
            squashed = jnp.tanh(z / self.rule.soft_cap)
            z, slope = self.rule.soft_cap * squashed, 1 - squashed**2
        seen = self.seen(part, j)
        return z if seen is None else jnp.where(seen, z, -jnp.inf), slope, back


def blockwise(q_bthk, k_bsgk, v_bsgv, params: Any, where: Where, rule: Rule) -> tuple[jax.Array, jax.Array]:
    """(attention (B, T, H, V), logsumexp (B, T, H)); see ops.attention."""
    (b, t, h, _), g = q_bthk.shape, k_bsgk.shape[2]
    # Query heads that share keys stand side by side as rows of one matrix, m = (t, r): every product is then a plain batched one.
    q_bgmk = jnp.moveaxis(q_bthk.reshape(b, t, g, h // g, -1), 2, 1).reshape(b, g, t * (h // g), -1)
    out_bgmv, lse_bgm = _pairwise(q_bgmk, k_bsgk, v_bsgv, params, where, rule)

    def by_time(x_bgmv):
        return jnp.moveaxis(x_bgmv.reshape(b, g, t, h // g, -1), 1, 2).reshape(b, t, h, -1)

    return by_time(out_bgmv), by_time(lse_bgm)[..., 0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _pairwise(q_bgmk, k_bsgk, v_bsgv, params, where, rule):
    return _forward(q_bgmk, k_bsgk, v_bsgv, params, where, rule)[0]


def _forward(q_bgmk, k_bsgk, v_bsgv, params, where, rule):
    blocks = Blocks(q_bgmk.shape[2] // rule.group, k_bsgk.shape[1], where, rule)
    q, k, v = blocks.pad(q_bgmk), blocks.reader(k_bsgk), blocks.reader(v_bsgv)
    dtype, rows = wide(q), q.shape[:2] + (blocks.q_size * rule.group,)
    lowest = jnp.finfo(dtype).min

    def step(carry, i, j, first):
        out, lse, top, total, values = carry
        z, _, _ = blocks.scores(blocks.q(q, i), k(j), params, i, j)
        before = jnp.where(first, lowest, top)
        top = jnp.maximum(before, jnp.max(z, axis=-1, keepdims=True))
        e, kept = jnp.exp(z - top), jnp.where(first, 0, jnp.exp(before - top))
        total = total * kept + jnp.sum(e, axis=-1, keepdims=True)
        values = values * kept + jnp.einsum("bgms,bgsv->bgmv", e.astype(v_bsgv.dtype), v(j), preferred_element_type=dtype)
        norm = jnp.where(total == 0, 1, total)  # a row that sees nothing gives 0
        # The last pair of a query block has seen all its keys: what it writes stays.
        return blocks.put_q(out, (values / norm).astype(out.dtype), i), blocks.put_q(lse, top + jnp.log(norm), i), top, total, values

    state = jnp.zeros((*q.shape[:3], v_bsgv.shape[-1]), v_bsgv.dtype), jnp.full((*q.shape[:3], 1), lowest, dtype)
    running = jnp.zeros((*rows, 1), dtype), jnp.zeros((*rows, 1), dtype), jnp.zeros((*rows, v_bsgv.shape[-1]), dtype)
    out, lse, *_ = blocks.walk(step, (*state, *running))
    m = q_bgmk.shape[2]
    return (out[:, :, :m], lse[:, :, :m]), (q_bgmk, k_bsgk, v_bsgv, params, where, out, lse)


def _backward(rule, residuals, d_both):
    q_bgmk, k_bsgk, v_bsgv, params, where, out, lse = residuals
    blocks = Blocks(q_bgmk.shape[2] // rule.group, k_bsgk.shape[1], where, rule)
    d_out, d_lse = map(blocks.pad, d_both)
    q, k, v, dtype = blocks.pad(q_bgmk), blocks.by_head(k_bsgk), blocks.by_head(v_bsgv), lse.dtype
    shift = jnp.sum(d_out.astype(dtype) * out.astype(dtype), axis=-1, keepdims=True) - d_lse

    def step(carry, i, j, first):
        dq, dk, dv, d_params = carry
        q_i, k_j, v_j, d_i = blocks.q(q, i), blocks.k(k, j), blocks.k(v, j), blocks.q(d_out, i)
        z, slope, back = blocks.scores(q_i, k_j, params, i, j)
        p = jnp.exp(z - blocks.q(lse, i))
        dz = p * (jnp.einsum("bgmv,bgsv->bgms", d_i, v_j, preferred_element_type=dtype) - blocks.q(shift, i))
        dz = dz if slope is None else dz * slope
        scaled = (dz * rule.scale).astype(q.dtype)
        dq_i = blocks.q(dq, i) + jnp.einsum("bgms,bgsk->bgmk", scaled, k_j, preferred_element_type=dtype)
        dk_j = blocks.k(dk, j) + jnp.einsum("bgms,bgmk->bgsk", scaled, q_i, preferred_element_type=dtype)
        if back is not None:
            more, dq_more, dk_more = back(dz)
            d_params = jax.tree.map(lambda total, d: total + d.astype(total.dtype), d_params, more)
            dq_i, dk_j = dq_i + dq_more.astype(dtype), dk_j + dk_more.astype(dtype)
        dv_j = blocks.k(dv, j) + jnp.einsum("bgms,bgmv->bgsv", p.astype(d_out.dtype), d_i, preferred_element_type=dtype)
        return blocks.put_q(dq, dq_i, i), blocks.put_k(dk, dk_j, j), blocks.put_k(dv, dv_j, j), d_params

    zeros = tuple(jnp.zeros(a.shape, dtype) for a in (q, k, v))
    *d_qkv, d_params = blocks.walk(step, (*zeros, jax.tree.map(lambda p: jnp.zeros(p.shape, wide(p)), params)))
    dq, dk, dv = d_qkv
    dk, dv = (jnp.swapaxes(d[:, :, : k_bsgk.shape[1]], 1, 2).astype(x.dtype) for d, x in ((dk, k_bsgk), (dv, v_bsgv)))
    d_params = jax.tree.map(lambda d, p: d.astype(p.dtype), d_params, params)
    return dq[:, :, : q_bgmk.shape[2]].astype(q_bgmk.dtype), dk, dv, d_params, None


_pairwise.defvjp(_forward, _backward)
