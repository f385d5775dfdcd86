"""Documents packed into rows: which is which, where each token stands in its own, and rows without the gaps that padding leaves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Documents(NamedTuple):
    """The documents of (B, T) tokens, numbered from 0 along each row; n < count.

    index_bt: the document of each token, count for padding and for documents beyond. rank_bt: the token's number within its document.
    length_bn: tokens of each document, 0 where there is none. lost_bt: tokens of documents beyond count.
    """

    index_bt: jax.Array
    rank_bt: jax.Array
    length_bn: jax.Array
    lost_bt: jax.Array

    @property
    def count(self) -> int:
        return self.length_bn.shape[1]

    @property
    def segments_bt(self) -> jax.Array:
        """(B, T) the document of each token from 1; 0 for padding and lost tokens."""
        return jnp.where(self.index_bt < self.count, self.index_bt + 1, 0)

    def slots(self, parts: int) -> jax.Array:
        """(B, N·parts) the document, from 1, of `parts` slots for each document; 0 where there is no document."""
        number_bn = jnp.where(self.length_bn > 0, jnp.arange(1, self.count + 1), 0)
        return jnp.repeat(number_bn, parts, axis=1)

    def of(self, x_bn: jax.Array, fill: int = 0) -> jax.Array:
        """Each token's own document's value of x (B, count, …), `fill` where it has none."""
        padded = jnp.concatenate([x_bn, jnp.full((x_bn.shape[0], 1, *x_bn.shape[2:]), fill, x_bn.dtype)], axis=1)
        return jnp.take_along_axis(padded, self.index_bt.reshape(*self.index_bt.shape, *[1] * (x_bn.ndim - 2)), axis=1)


def documents(segments_bt: jax.Array | None, shape: tuple[int, int], count: int) -> Documents:
    """The documents of (B, T) = shape tokens: runs of one segment, whatever padding (segment 0) lies within; None is one without padding."""
    batch, length = shape
    if segments_bt is None:
        rank_bt = jnp.broadcast_to(jnp.arange(length), shape)
        return Documents(jnp.zeros(shape, jnp.int32), rank_bt, jnp.full((batch, 1), length), jnp.zeros(shape, bool))
    real_bt = segments_bt > 0
    newest_bt = jax.lax.cummax(jnp.where(real_bt, jnp.arange(length), -1), axis=1)  # the last real token up to and with t
    before_bt = jnp.pad(newest_bt, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    latest_bt = jnp.where(before_bt < 0, 0, jnp.take_along_axis(segments_bt, jnp.maximum(before_bt, 0), axis=1))
    begins_bt = real_bt & (latest_bt != segments_bt)
    order_bt = jnp.cumsum(real_bt, axis=1) - 1
    number_bt = jnp.cumsum(begins_bt, axis=1) - 1
    rank_bt = jnp.where(real_bt, order_bt - jax.lax.cummax(jnp.where(begins_bt, order_bt, 0), axis=1), 0)
    index_bt = jnp.where(real_bt & (number_bt < count), number_bt, count)
    length_bn = jnp.sum(index_bt[..., None] == jnp.arange(count), axis=1)
    return Documents(index_bt, rank_bt, length_bn, real_bt & (number_bt >= count))


def compact(real_bt: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(token of each place, place of each token), both (B, T): places are the real tokens in order, then padding."""
    token_bt = jnp.argsort(~real_bt, axis=1, stable=True)
    return token_bt, jnp.argsort(token_bt, axis=1)


def means(x_bt: jax.Array, found: Documents, parts: int) -> jax.Array:
    """(B, N·M, …) means of x (B, T, …) over M = parts stretches of each document, token r of n in stretch r·M // n; 0 where there is none."""
    wide = x_bt.astype(jnp.promote_types(x_bt.dtype, jnp.float32))
    slot_bt = jnp.where(found.segments_bt > 0, found.index_bt * parts + found.rank_bt * parts // jnp.maximum(found.of(found.length_bn), 1), found.count * parts)
    return mean_by(wide, slot_bt, found.count * parts).astype(x_bt.dtype)


def mean_by(x_bt: jax.Array, slot_bt: jax.Array, slots: int) -> jax.Array:
    """(B, slots, …) means of x (B, T, …) over the tokens of each slot, 0 for an empty one; a token of slot `slots` counts nowhere."""

    def row(x_t, slot_t):
        total = jax.ops.segment_sum(x_t, slot_t, slots + 1)[:-1]
        count = jax.ops.segment_sum(jnp.ones_like(slot_t), slot_t, slots + 1)[:-1]
        return total / jnp.maximum(count, 1).reshape(-1, *[1] * (total.ndim - 1)).astype(total.dtype)

    return jax.vmap(row)(jnp.where((slot_bt < slots).reshape(*slot_bt.shape, *[1] * (x_bt.ndim - 2)), x_bt, 0), slot_bt)
