"""Softmax attention (Vaswani et al. 2017, arXiv 1706.03762) with grouped keys and values (Ainslie et al. 2023, arXiv 2305.13245)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

IMPLEMENTATIONS = ("reference", "xla")


class Rule(NamedTuple):
    """How scores are made: query heads that share a key, whether later keys are hidden, the scale and the cap."""

    group: int
    causal: bool
    scale: float
    soft_cap: float | None


class Where(NamedTuple):
    """Arrays that say which keys a query sees; None where the rule alone says it."""

    q_order_bt: jax.Array | None
    q_segments_bt: jax.Array | None
    k_segments_bs: jax.Array | None


def attention(
    q_bthk: jax.Array,
    k_bsgk: jax.Array,
    v_bsgv: jax.Array,
    *,
    q_order_bt: jax.Array | None = None,
    q_segments_bt: jax.Array | None = None,
    k_segments_bs: jax.Array | None = None,
    causal: bool = True,
    scale: float | None = None,
    soft_cap: float | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """softmax(cap(q kᵀ · scale)) v over the keys that each query may see; (B, T, H, V).

    Head h of q reads key/value head h // (H/G). Query (b, t) sees key s where s ≤ q_order (default: t, then S = T) if `causal`,
    and where their segments are equal; segment 0 is padding and sees nothing: a query without keys gives 0.
    cap(z) = soft_cap · tanh(z / soft_cap). `scale` defaults to K^(-1/2). Scores and softmax in at least float32.

    implementation: "reference" builds all T × S scores; "xla" (the default) walks over those pairs of query and key blocks that can see
    each other with a running softmax, and recomputes their scores in the backward pass from the logsumexp, as FlashAttention does
    (Dao 2023, arXiv 2307.08691): memory O(T + S), compile time that does not depend on the length.

    Raises ValueError for heads that the key/value heads do not divide, for lengths that differ without q_order, for only one
    of the two segment arrays, and for an unknown implementation.
    """
    (_, t, h, width), (_, s, g, _) = q_bthk.shape, k_bsgk.shape
    if h % g:
        raise ValueError(f"attention has {h} query heads, not a multiple of its {g} key/value heads")
    if causal and q_order_bt is None and t != s:
        raise ValueError(f"causal attention of {t} queries over {s} keys needs q_order_bt")
    if (q_segments_bt is None) != (k_segments_bs is None):
        raise ValueError("attention needs the segments of both queries and keys, or of neither")
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"attention has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
    rule = Rule(h // g, causal, width**-0.5 if scale is None else scale, soft_cap)
    where = Where(q_order_bt, q_segments_bt, k_segments_bs)
    if implementation == "reference":
        return _reference(q_bthk, k_bsgk, v_bsgv, where, rule)
    # Query heads that share keys stand side by side as rows of one matrix, m = (t, r): every product is then a plain batched one.
    q_bgmk = jnp.moveaxis(q_bthk.reshape(*q_bthk.shape[:2], g, h // g, width), 2, 1).reshape(q_bthk.shape[0], g, -1, width)
    k_bgsk, v_bgsv = jnp.swapaxes(k_bsgk, 1, 2), jnp.swapaxes(v_bsgv, 1, 2)
    out_bgmv = _blockwise(q_bgmk, k_bgsk, v_bgsv, where, rule)
    return jnp.moveaxis(out_bgmv.reshape(q_bthk.shape[0], g, t, h // g, -1), 1, 2).reshape(*q_bthk.shape[:3], -1)


def _wide(x: jax.Array):
    return jnp.promote_types(x.dtype, jnp.float32)


def _seen(t_bt, s_s, q_segments_bt, k_segments_bs, causal: bool) -> jax.Array | None:
    """(B or 1, T, S) which keys each query sees; None where it sees all."""
    seen_bts = s_s <= t_bt[..., None] if causal else None
    if q_segments_bt is not None:
        same_bts = (q_segments_bt[..., None] == k_segments_bs[:, None]) & (q_segments_bt[..., None] > 0)
        seen_bts = same_bts if seen_bts is None else seen_bts & same_bts
    return seen_bts


def _reference(q_bthk, k_bsgk, v_bsgv, where: Where, rule: Rule):
    k_bshk, v_bshv = jnp.repeat(k_bsgk, rule.group, axis=2), jnp.repeat(v_bsgv, rule.group, axis=2)
    scores = rule.scale * jnp.einsum("bthk,bshk->bhts", q_bthk, k_bshk, preferred_element_type=_wide(q_bthk))
    if rule.soft_cap is not None:
        scores = rule.soft_cap * jnp.tanh(scores / rule.soft_cap)
    order_bt = jnp.arange(q_bthk.shape[1])[None] if where.q_order_bt is None else where.q_order_bt
    seen_bts = _seen(order_bt, jnp.arange(k_bsgk.shape[1]), where.q_segments_bt, where.k_segments_bs, rule.causal)
    if seen_bts is not None:
        scores = jnp.where(seen_bts[:, None], scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1)
    if seen_bts is not None:
        weights = jnp.where(seen_bts[:, None].any(-1, keepdims=True), weights, 0)
    return jnp.einsum("bhts,bshv->bthv", weights.astype(v_bsgv.dtype), v_bshv)


class Blocks:
    """The blocks of T queries (rows m = (t, r)) and S keys, padded to whole blocks, and the pairs that may see each other."""

    def __init__(self, queries: int, keys: int, where: Where, rule: Rule):
        self.where, self.rule, self.keys, self.queries = where, rule, keys, queries
        # Small blocks waste least of the causal square; few queries take many keys at once.
        self.q_size = min(queries, 64 if queries <= 512 else 128)
        self.k_size = min(keys, max(self.q_size, 2**14 // self.q_size) if queries < 64 else self.q_size)
        q_blocks, k_blocks = -(-queries // self.q_size), -(-keys // self.k_size)
        skips = rule.causal and where.q_order_bt is None
        pairs = [(i, j) for i in range(q_blocks) for j in range(k_blocks) if not skips or j * self.k_size < (i + 1) * self.q_size]
        self.pairs = np.array(pairs, np.int32)
        self.q_padding, self.k_padding = q_blocks * self.q_size - queries, k_blocks * self.k_size - keys

    def pad(self, x_bgmk, keys: bool = False):
        """Rows of queries (or keys) up to whole blocks."""
        rows = self.k_padding if keys else self.q_padding * self.rule.group
        return jnp.pad(x_bgmk, ((0, 0), (0, 0), (0, rows), (0, 0))) if rows else x_bgmk

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

    def seen(self, i, j):
        """(B or 1, 1, M, S) which keys of block j the rows of block i see; None where all."""

        def cut(a, padding, index, size):
            a = jnp.pad(a, ((0, 0), (0, padding))) if padding else a
            return jax.lax.dynamic_slice_in_dim(a, index * size, size, 1)

        order, q_segments, k_segments = self.where
        s_s = j * self.k_size + jnp.arange(self.k_size)
        t_bt = (i * self.q_size + jnp.arange(self.q_size))[None] if order is None else cut(order, self.q_padding, i, self.q_size)
        if q_segments is not None:
            q_segments, k_segments = cut(q_segments, self.q_padding, i, self.q_size), cut(k_segments, self.k_padding, j, self.k_size)
        seen_bts = _seen(t_bt, s_s, q_segments, k_segments, self.rule.causal)
        if self.k_padding:
            real_s = s_s < self.keys
            seen_bts = jnp.broadcast_to(real_s, (1, self.q_size, self.k_size)) if seen_bts is None else seen_bts & real_s
        return None if seen_bts is None else jnp.repeat(seen_bts, self.rule.group, axis=1)[:, None]

    def scores(self, q_bgmk, k_bgsk, i, j):
        """(scores (B, G, M, S) with −inf where hidden, derivative of the cap or None)."""
        z = jnp.einsum("bgmk,bgsk->bgms", q_bgmk, k_bgsk, preferred_element_type=_wide(q_bgmk)) * self.rule.scale
        slope = None
        if self.rule.soft_cap is not None:
            squashed = jnp.tanh(z / self.rule.soft_cap)
            z, slope = self.rule.soft_cap * squashed, 1 - squashed**2
        seen = self.seen(i, j)
        return z if seen is None else jnp.where(seen, z, -jnp.inf), slope


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _blockwise(q_bgmk, k_bgsk, v_bgsv, where, rule):
    return _blockwise_forward(q_bgmk, k_bgsk, v_bgsv, where, rule)[0]


def _blockwise_forward(q_bgmk, k_bgsk, v_bgsv, where, rule):
    blocks = Blocks(q_bgmk.shape[2] // rule.group, k_bgsk.shape[2], where, rule)
    q, k, v = blocks.pad(q_bgmk), blocks.pad(k_bgsk, keys=True), blocks.pad(v_bgsv, keys=True)
    wide, rows = _wide(q), q.shape[:2] + (blocks.q_size * rule.group,)
    lowest = jnp.finfo(wide).min

    def pair(carry, ij):
        out, lse, top, total, values = carry
        i, j, first = ij
        z, _ = blocks.scores(blocks.q(q, i), blocks.k(k, j), i, j)
        before = jnp.where(first, lowest, top)
        top = jnp.maximum(before, jnp.max(z, axis=-1, keepdims=True))
        e, kept = jnp.exp(z - top), jnp.where(first, 0, jnp.exp(before - top))
        total = total * kept + jnp.sum(e, axis=-1, keepdims=True)
        values = values * kept + jnp.einsum("bgms,bgsv->bgmv", e.astype(v.dtype), blocks.k(v, j), preferred_element_type=wide)
        norm = jnp.where(total == 0, 1, total)  # a row that sees nothing gives 0
        # The last pair of a query block has seen all its keys: what it writes stays.
        return (blocks.put_q(out, (values / norm).astype(out.dtype), i), blocks.put_q(lse, top + jnp.log(norm), i), top, total, values), None

    i, j = blocks.pairs.T
    first = np.diff(i, prepend=-1) != 0
    state = jnp.zeros((*q.shape[:3], v.shape[-1]), v.dtype), jnp.zeros((*q.shape[:3], 1), wide)
    running = jnp.zeros((*rows, 1), wide), jnp.zeros((*rows, 1), wide), jnp.zeros((*rows, v.shape[-1]), wide)
    (out, lse, *_), _ = jax.lax.scan(pair, (*state, *running), (i, j, first))
    return out[:, :, : q_bgmk.shape[2]], (q_bgmk, k_bgsk, v_bgsv, where, out, lse)


def _blockwise_backward(rule, residuals, d_out):
    q_bgmk, k_bgsk, v_bgsv, where, out, lse = residuals
    blocks = Blocks(q_bgmk.shape[2] // rule.group, k_bgsk.shape[2], where, rule)
    q, k, v, d = blocks.pad(q_bgmk), blocks.pad(k_bgsk, keys=True), blocks.pad(v_bgsv, keys=True), blocks.pad(d_out)
    wide = lse.dtype
    shift = jnp.sum(d.astype(wide) * out.astype(wide), axis=-1, keepdims=True)

    def pair(carry, ij):
        dq, dk, dv = carry
        i, j = ij
        q_i, k_j, v_j, d_i = blocks.q(q, i), blocks.k(k, j), blocks.k(v, j), blocks.q(d, i)
        z, slope = blocks.scores(q_i, k_j, i, j)
        p = jnp.exp(z - blocks.q(lse, i))
        dz = p * (jnp.einsum("bgmv,bgsv->bgms", d_i, v_j, preferred_element_type=wide) - blocks.q(shift, i)) * rule.scale
        dz = (dz if slope is None else dz * slope).astype(q.dtype)
        dq = blocks.put_q(dq, blocks.q(dq, i) + jnp.einsum("bgms,bgsk->bgmk", dz, k_j, preferred_element_type=wide), i)
        dk = blocks.put_k(dk, blocks.k(dk, j) + jnp.einsum("bgms,bgmk->bgsk", dz, q_i, preferred_element_type=wide), j)
        dv = blocks.put_k(dv, blocks.k(dv, j) + jnp.einsum("bgms,bgmv->bgsv", p.astype(d.dtype), d_i, preferred_element_type=wide), j)
        return (dq, dk, dv), None

    i, j = blocks.pairs.T
    (dq, dk, dv), _ = jax.lax.scan(pair, tuple(jnp.zeros(a.shape, wide) for a in (q, k, v)), (i, j))
    given = (q_bgmk, k_bgsk, v_bgsv)
    return *(a[:, :, : g.shape[2]].astype(g.dtype) for a, g in zip((dq, dk, dv), given, strict=True)), None


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)
