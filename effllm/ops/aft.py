"""The average of the attention-free transformer (Zhai et al. 2021, arXiv 2105.14103): a softmax over time in each channel by itself."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

IMPLEMENTATIONS = ("reference", "blocked")
NOTHING = -1e30  # finite, so that a block that sees nothing makes no NaN


def aft(
    k_bsd: jax.Array,
    v_bsd: jax.Array,
    bias: Callable[[jax.Array], jax.Array],
    *,
    q_order_bt: jax.Array,
    k_order_bs: jax.Array,
    q_segments_bt: jax.Array,
    k_segments_bs: jax.Array,
    implementation: str | None = None,
) -> jax.Array:
    """y_t = Σ_s exp(k_s + w_ts) v_s / Σ_s exp(k_s + w_ts) over s of t's segment with k_order ≤ q_order; (B, T, D), in at least float32.

    bias(s) gives w (B or 1, T, S', D or 1) of the keys s (S',). Segment 0 is padding and sees nothing: a query without keys gives 0, a NaN in w NaN.

    implementation: "reference" holds all T × S × D weights; "blocked" (the default) goes over blocks of keys with a running softmax and recomputes them in the
    backward pass: O(T·S·D) time, O(T·D) memory. Raises ValueError for an unknown implementation.
    """
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"aft has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
    wide = jnp.promote_types(k_bsd.dtype, jnp.float32)
    k_bsd, v_bsd = k_bsd.astype(wide), v_bsd.astype(wide)
    (batch, keys, width), queries = k_bsd.shape, q_order_bt.shape[1]

    def scores(s, k_bsd, order_bs, segments_bs):
        seen_bts = (order_bs[:, None] <= q_order_bt[..., None]) & (segments_bs[:, None] == q_segments_bt[..., None]) & (segments_bs[:, None] > 0)
        return jnp.where(seen_bts[..., None], k_bsd[:, None] + bias(s).astype(wide), NOTHING)

    k_order_bs = jnp.broadcast_to(k_order_bs, (batch, keys))
    if implementation == "reference":
        z_btsd = scores(jnp.arange(keys), k_bsd, k_order_bs, k_segments_bs)
        weights_btsd = jnp.where(z_btsd.max(2, keepdims=True) == NOTHING, 0, jax.nn.softmax(z_btsd, axis=2))
        return jnp.einsum("btsd,bsd->btd", weights_btsd, v_bsd)
    size = min(keys, max(8, 2048 // queries))

    def cut(x_bs):
        x_bs = jnp.pad(x_bs, ((0, 0), (0, -keys % size), *((0, 0),) * (x_bs.ndim - 2)))
        return jnp.moveaxis(x_bs.reshape(batch, -1, size, *x_bs.shape[2:]), 1, 0)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def block(carry, now):
        (values, weights, top), (i, k, v, order, segments) = carry, now
        z_btsd = scores(jnp.minimum(i * size + jnp.arange(size), keys - 1), k, order, segments)
        new = jax.lax.stop_gradient(jnp.maximum(top, z_btsd.max(2)))
        e_btsd, kept = jnp.exp(z_btsd - new[:, :, None]), jnp.exp(top - new)
        return (kept * values + jnp.einsum("btsd,bsd->btd", e_btsd, v), kept * weights + e_btsd.sum(2), new), None

    zero = jnp.zeros((batch, queries, width), wide)
    parts = tuple(map(cut, (k_bsd, v_bsd, k_order_bs, k_segments_bs)))
    (values, weights, top), _ = jax.lax.scan(block, (zero, zero, zero + NOTHING), (jnp.arange(parts[0].shape[0]), *parts))
    return jnp.where(top == NOTHING, 0, values / weights)
