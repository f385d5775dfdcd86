"""The exponentially weighted average of RWKV-4 (Peng et al. 2023, arXiv 2305.13048); without decay and bonus, AFT-simple's (Zhai et al. 2021, arXiv 2105.14103)."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

IMPLEMENTATIONS = ("reference", "blockwise")
NOTHING = -1e30  # the log of no weight: finite, so that differences of it are


class Average(NamedTuple):
    """What the tokens so far weigh, (B, D) each: sums of weights × values and of weights, both divided by exp(top)."""

    values_bd: jax.Array
    weights_bd: jax.Array
    top_bd: jax.Array

    @classmethod
    def empty(cls, batch: int, width: int, dtype) -> "Average":
        return cls(jnp.zeros((batch, width), dtype), jnp.zeros((batch, width), dtype), jnp.full((batch, width), NOTHING, dtype))


def wkv(
    k_btd: jax.Array,
    v_btd: jax.Array,
    log_decay_d: jax.Array,
    bonus_d: jax.Array,
    start: Average | None = None,
    *,
    real_bt: jax.Array | None = None,
    reset_bt: jax.Array | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, Average]:
    """(y (B, T, D), what is carried on) of y_t = (Σ_{s<t} e^{(t−1−s)·log_decay + k_s} v_s + e^{bonus + k_t} v_t) / (the same sum of weights).

    Where reset_bt is true the sums forget all before; where real_bt is false they stay as they are (padding). Sums are kept relative to their largest weight, in
    at least float32: any k is safe.

    implementation: "reference" takes one step after another; "blockwise" (the default) steps through all blocks of √T tokens at once, then from block to
    block. O(T·D) time and memory.

    Raises ValueError for a start of another shape and for an unknown implementation.
    """
    batch, length, width = k_btd.shape
    wide = jnp.promote_types(k_btd.dtype, jnp.float32)
    start = Average.empty(batch, width, wide) if start is None else Average(*(s.astype(wide) for s in start))
    if start.top_bd.shape != (batch, width):
        raise ValueError(f"wkv: start has shape {start.top_bd.shape}, this needs {(batch, width)}: it is another model's state")
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"wkv has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
    k_btd, v_btd = k_btd.astype(wide), v_btd.astype(wide)
    fading_btd = jnp.broadcast_to(log_decay_d.astype(wide), k_btd.shape)
    weight_btd, top_btd = jnp.ones_like(k_btd), k_btd
    if reset_bt is not None:
        fading_btd = jnp.where(reset_bt[..., None], NOTHING, fading_btd)
    if real_bt is not None:
        real = real_bt[..., None]
        fading_btd, weight_btd, top_btd = jnp.where(real, fading_btd, 0), jnp.where(real, 1.0, 0), jnp.where(real, k_btd, NOTHING)
    each = fading_btd, Average(v_btd * weight_btd, jnp.broadcast_to(weight_btd, k_btd.shape), top_btd)
    if length == 1:
        before = jax.tree.map(lambda x: x[:, None], start)
    elif implementation == "reference":
        _, before = jax.lax.scan(lambda s, now: (_merge(s, *now), s), start, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), each))
        before = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), before)
    else:
        before = _blockwise(start, each)
    last = _merge(jax.tree.map(lambda x: x[:, -1], before), *jax.tree.map(lambda x: x[:, -1], each))
    if reset_bt is not None:
        before = before._replace(top_bd=jnp.where(reset_bt[..., None], NOTHING, before.top_bd))
    own = Average(v_btd, jnp.ones_like(v_btd), k_btd + bonus_d.astype(wide))
    now = _merge(before, jnp.zeros_like(fading_btd), own)
    return now.values_bd / now.weights_bd, last


def _merge(before: Average, fading, after: Average) -> Average:
    """Both together, the earlier faded by exp(fading). The largest weight cancels from every result, so that it needs no gradient."""
    faded = before.top_bd + fading
    top = jax.lax.stop_gradient(jnp.maximum(faded, after.top_bd))
    kept, new = jnp.exp(faded - top), jnp.exp(after.top_bd - top)
    return Average(kept * before.values_bd + new * after.values_bd, kept * before.weights_bd + new * after.weights_bd, top)


@functools.partial(jax.checkpoint, prevent_cse=False)
def _blockwise(start: Average, each):
    """The average before each token."""
    batch, length, width = each[0].shape
    size = math.isqrt(length - 1) + 1
    blocks = -(-length // size)

    def cut(x_btd):
        """(steps within a block, blocks, B, D); what fills the last block is not read."""
        x_btd = jnp.pad(x_btd, ((0, 0), (0, blocks * size - length), (0, 0)))
        return x_btd.reshape(batch, blocks, size, width).transpose(2, 1, 0, 3)

    def within(carry, now):
        faded, average = carry
        return (faded + now[0], _merge(average, *now)), carry

    each = jax.tree.map(cut, each)
    empty = jax.tree.map(lambda x: jnp.broadcast_to(x, (blocks, batch, width)), Average.empty(batch, width, each[0].dtype))
    whole, inside = jax.lax.scan(within, (jnp.zeros_like(empty.top_bd), empty), each)
    _, into = jax.lax.scan(lambda s, now: (_merge(s, *now), s), start, whole)
    before = _merge(jax.tree.map(lambda x: x[None], into), *inside)
    return jax.tree.map(lambda x: x.transpose(2, 1, 0, 3).reshape(batch, -1, width)[:, :length], before)
