"""Softmax attention (Vaswani et al. 2017, arXiv 1706.03762) with grouped keys and values (Ainslie et al. 2023, arXiv 2305.13245)."""

import jax
import jax.numpy as jnp

IMPLEMENTATIONS = ("reference", "xla")
BLOCK = 128


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

    implementation: "reference" builds all T × S scores; "xla" (the default) takes queries by blocks of 128, skips the keys that a
    causal block cannot see and recomputes each block's scores in the backward pass: memory O(T · 128).

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
    scale = width**-0.5 if scale is None else scale
    q_btgrk = q_bthk.reshape(*q_bthk.shape[:2], g, h // g, width)

    def rows(q, k, v, order, q_segments, k_segments):
        return _rows(q, k, v, order, q_segments, k_segments, causal, scale, soft_cap)

    if implementation == "reference":
        order_bt = jnp.arange(t)[None] if q_order_bt is None else q_order_bt
        out = rows(q_btgrk, k_bsgk, v_bsgv, order_bt, q_segments_bt, k_segments_bs)
    elif implementation in (None, "xla"):
        out = _blocks(rows, q_btgrk, k_bsgk, v_bsgv, q_order_bt, q_segments_bt, k_segments_bs, causal)
    else:
        raise ValueError(f"attention has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
    return out.reshape(*q_bthk.shape[:3], v_bsgv.shape[-1])


def _rows(q_btgrk, k_bsgk, v_bsgv, order_bt, q_segments_bt, k_segments_bs, causal, scale, soft_cap):
    """Attention of some query rows over all given keys."""
    scores = jnp.einsum("btgrk,bsgk->bgrts", q_btgrk, k_bsgk, preferred_element_type=jnp.promote_types(q_btgrk.dtype, jnp.float32))
    scores = scores * scale
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    seen_bts = None
    if causal:
        seen_bts = jnp.arange(k_bsgk.shape[1]) <= order_bt[..., None]
    if q_segments_bt is not None:
        same_bts = (q_segments_bt[..., None] == k_segments_bs[:, None]) & (q_segments_bt[..., None] > 0)
        seen_bts = same_bts if seen_bts is None else seen_bts & same_bts
    if seen_bts is not None:
        scores = jnp.where(seen_bts[:, None, None], scores, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), jnp.finfo(scores.dtype).min))
    weights = jnp.exp(scores - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights / jnp.where(total == 0, 1, total)
    return jnp.einsum("bgrts,bsgv->btgrv", weights.astype(v_bsgv.dtype), v_bsgv)


def _blocks(rows, q_btgrk, k_bsgk, v_bsgv, order_bt, q_segments_bt, k_segments_bs, causal):
    t, s = q_btgrk.shape[1], k_bsgk.shape[1]
    whole_square = not causal or order_bt is not None
    out = []
    for start in range(0, t, BLOCK):
        stop = min(start + BLOCK, t)
        keys = s if whole_square else stop
        order = jnp.arange(start, stop)[None] if order_bt is None else order_bt[:, start:stop]
        q_segments = None if q_segments_bt is None else q_segments_bt[:, start:stop]
        k_segments = None if k_segments_bs is None else k_segments_bs[:, :keys]
        out.append(
            jax.checkpoint(rows)(q_btgrk[:, start:stop], k_bsgk[:, :keys], v_bsgv[:, :keys], order, q_segments, k_segments)
        )
    return out[0] if len(out) == 1 else jnp.concatenate(out, axis=1)
