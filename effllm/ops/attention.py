"""Softmax attention (Vaswani et al. 2017, arXiv 1706.03762) with grouped keys and values (Ainslie et al. 2023, arXiv 2305.13245)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

IMPLEMENTATIONS = ("reference", "xla")
BLOCK = 64


class Rule(NamedTuple):
    """How scores are made: query heads that share a key, whether later keys are hidden, the scale and the cap."""

    group: int
    causal: bool
    scale: float
    soft_cap: float | None


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

    implementation: "reference" builds all T × S scores; "xla" (the default) takes queries by blocks of 64, skips the keys that a causal
    block cannot see, and recomputes each block's scores in the backward pass from their logsumexp, as FlashAttention does (Dao 2023,
    arXiv 2307.08691): memory O(T).

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
    if implementation == "reference":
        return _reference(q_bthk, k_bsgk, v_bsgv, q_order_bt, q_segments_bt, k_segments_bs, rule)
    # Query heads that share keys stand side by side as rows of one matrix, m = (t, r): every product is then a plain batched one.
    q_bgmk = jnp.moveaxis(q_bthk.reshape(*q_bthk.shape[:2], g, h // g, width), 2, 1).reshape(q_bthk.shape[0], g, -1, width)
    k_bgsk, v_bgsv = jnp.swapaxes(k_bsgk, 1, 2), jnp.swapaxes(v_bsgv, 1, 2)
    out_bgmv = _blockwise(q_bgmk, k_bgsk, v_bgsv, q_order_bt, q_segments_bt, k_segments_bs, rule)
    return jnp.moveaxis(out_bgmv.reshape(q_bthk.shape[0], g, t, h // g, -1), 1, 2).reshape(*q_bthk.shape[:3], -1)


def _wide(x: jax.Array):
    return jnp.promote_types(x.dtype, jnp.float32)


def _seen(order_bt, keys: int, q_segments_bt, k_segments_bs, causal: bool) -> jax.Array | None:
    """(B or 1, T, S) which keys each query sees; None where it sees all."""
    seen_bts = jnp.arange(keys) <= order_bt[..., None] if causal else None
    if q_segments_bt is not None:
        same_bts = (q_segments_bt[..., None] == k_segments_bs[:, None]) & (q_segments_bt[..., None] > 0)
        seen_bts = same_bts if seen_bts is None else seen_bts & same_bts
    return seen_bts


def _reference(q_bthk, k_bsgk, v_bsgv, order_bt, q_segments_bt, k_segments_bs, rule: Rule):
    k_bshk, v_bshv = jnp.repeat(k_bsgk, rule.group, axis=2), jnp.repeat(v_bsgv, rule.group, axis=2)
    scores = rule.scale * jnp.einsum("bthk,bshk->bhts", q_bthk, k_bshk, preferred_element_type=_wide(q_bthk))
    if rule.soft_cap is not None:
        scores = rule.soft_cap * jnp.tanh(scores / rule.soft_cap)
    order_bt = jnp.arange(q_bthk.shape[1])[None] if order_bt is None else order_bt
    seen_bts = _seen(order_bt, k_bsgk.shape[1], q_segments_bt, k_segments_bs, rule.causal)
    if seen_bts is not None:
        scores = jnp.where(seen_bts[:, None], scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1)
    if seen_bts is not None:
        weights = jnp.where(seen_bts[:, None].any(-1, keepdims=True), weights, 0)
    return jnp.einsum("bhts,bshv->bthv", weights.astype(v_bsgv.dtype), v_bshv)


def _blocks(rows: int, keys: int, order_bt, q_segments_bt, k_segments_bs, group: int, causal: bool):
    """(rows, number of keys, what these rows see) of each block of queries; a query has `group` rows."""
    for start in range(0, rows // group, BLOCK):
        block = slice(start, min(start + BLOCK, rows // group))
        count = block.stop if causal and order_bt is None else keys
        order = jnp.arange(block.start, block.stop)[None] if order_bt is None else order_bt[:, block]
        segments = (None, None) if q_segments_bt is None else (q_segments_bt[:, block], k_segments_bs[:, :count])
        seen_bts = _seen(order, count, *segments, causal)
        seen_bms = None if seen_bts is None else jnp.repeat(seen_bts, group, axis=1)
        yield slice(block.start * group, block.stop * group), count, seen_bms


def _scores(q_bgmk, k_bgsk, seen_bms, rule: Rule):
    """(scores (B, G, M, S) with −inf where hidden, derivative of the cap or None)."""
    z = jnp.einsum("bgmk,bgsk->bgms", q_bgmk, k_bgsk, preferred_element_type=_wide(q_bgmk)) * rule.scale
    slope = None
    if rule.soft_cap is not None:
        squashed = jnp.tanh(z / rule.soft_cap)
        z, slope = rule.soft_cap * squashed, 1 - squashed**2
    return z if seen_bms is None else jnp.where(seen_bms[:, None], z, -jnp.inf), slope


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _blockwise(q_bgmk, k_bgsk, v_bgsv, order_bt, q_segments_bt, k_segments_bs, rule):
    return _blockwise_forward(q_bgmk, k_bgsk, v_bgsv, order_bt, q_segments_bt, k_segments_bs, rule)[0]


def _blockwise_forward(q_bgmk, k_bgsk, v_bgsv, order_bt, q_segments_bt, k_segments_bs, rule):
    out, lse = [], []
    for rows, count, seen_bms in _blocks(q_bgmk.shape[2], k_bgsk.shape[2], order_bt, q_segments_bt, k_segments_bs, rule.group, rule.causal):
        z, _ = _scores(q_bgmk[:, :, rows], k_bgsk[:, :, :count], seen_bms, rule)
        top = jnp.maximum(jnp.max(z, axis=-1, keepdims=True), jnp.finfo(z.dtype).min)
        e = jnp.exp(z - top)
        total = jnp.sum(e, axis=-1, keepdims=True)
        total = jnp.where(total == 0, 1, total)
        values = jnp.einsum("bgms,bgsv->bgmv", e.astype(v_bgsv.dtype), v_bgsv[:, :, :count], preferred_element_type=z.dtype)
        out.append((values / total).astype(v_bgsv.dtype))
        lse.append(top + jnp.log(total))
    out, lse = jnp.concatenate(out, axis=2), jnp.concatenate(lse, axis=2)
    return out, (q_bgmk, k_bgsk, v_bgsv, order_bt, q_segments_bt, k_segments_bs, out, lse)


def _blockwise_backward(rule, residuals, d_out):
    q_bgmk, k_bgsk, v_bgsv, order_bt, q_segments_bt, k_segments_bs, out, lse = residuals
    wide = lse.dtype
    dq, dk_bgsk, dv_bgsv = [], jnp.zeros(k_bgsk.shape, wide), jnp.zeros(v_bgsv.shape, wide)
    shift = jnp.sum(d_out.astype(wide) * out.astype(wide), axis=-1, keepdims=True)
    for rows, count, seen_bms in _blocks(q_bgmk.shape[2], k_bgsk.shape[2], order_bt, q_segments_bt, k_segments_bs, rule.group, rule.causal):
        q, k, v, d = q_bgmk[:, :, rows], k_bgsk[:, :, :count], v_bgsv[:, :, :count], d_out[:, :, rows]
        z, slope = _scores(q, k, seen_bms, rule)
        p = jnp.exp(z - lse[:, :, rows])
        dz = p * (jnp.einsum("bgmv,bgsv->bgms", d, v, preferred_element_type=wide) - shift[:, :, rows])
        dz = (dz * rule.scale if slope is None else dz * slope * rule.scale).astype(q.dtype)
        dq.append(jnp.einsum("bgms,bgsk->bgmk", dz, k))
        dk_bgsk = dk_bgsk.at[:, :, :count].add(jnp.einsum("bgms,bgmk->bgsk", dz, q, preferred_element_type=wide))
        dv_bgsv = dv_bgsv.at[:, :, :count].add(jnp.einsum("bgms,bgmv->bgsv", p.astype(d.dtype), d, preferred_element_type=wide))
    return jnp.concatenate(dq, axis=2), dk_bgsk.astype(k_bgsk.dtype), dv_bgsv.astype(v_bgsv.dtype), None, None, None


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)
