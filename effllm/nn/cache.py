"""Keys and values as the state of attention: all of them, or the last of a window in a ring."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct


class Seen(NamedTuple):
    """What the queries of a call attend to: keys and values (B, S, G, K) with their segments, both sides' place in their row's order, and
    which queries (B, T) lie beyond what the state can hold."""

    k_bsgk: jax.Array
    v_bsgk: jax.Array
    k_segments_bs: jax.Array
    k_order_bs: jax.Array | None
    q_order_bt: jax.Array
    lost_bt: jax.Array


class Cache(struct.PyTreeNode):
    """Base of both: row b holds slots of keys, values and segments (0 marks an empty slot) and the number of tokens that it has seen."""

    k_bsgk: jax.Array
    v_bsgk: jax.Array
    segments_bs: jax.Array
    length_b: jax.Array

    @classmethod
    def empty(cls, batch: int, slots: int, kv_heads: int, head_dim: int, dtype: Any, **static: Any) -> "Cache":
        k = jnp.zeros((batch, slots, kv_heads, head_dim), dtype)
        return cls(k, k, jnp.zeros((batch, slots), jnp.int32), jnp.zeros((batch,), jnp.int32), **static)

    @property
    def slots(self) -> int:
        return self.segments_bs.shape[1]

    def slot_of(self, order_b: jax.Array) -> jax.Array:
        """The slot of each row's token number `order`."""
        return order_b

    def last_segment(self) -> jax.Array:
        """(B,) the segment of each row's last token; 1 in an empty row."""
        last_b1 = self.slot_of(jnp.maximum(self.length_b - 1, 0))[:, None]
        return jnp.maximum(jnp.take_along_axis(self.segments_bs, last_b1, axis=1)[:, 0], 1)

    def order(self, segments_bt: jax.Array) -> jax.Array:
        """(B, T) the number of each new token in its row; padding has that of the token before it."""
        return self.length_b[:, None] + jnp.cumsum(segments_bt > 0, axis=1, dtype=jnp.int32) - 1

    def put(self, target_bt: jax.Array, k_btgk: jax.Array, v_btgk: jax.Array, segments_bt: jax.Array, length_b: jax.Array) -> "Cache":
        """With the new tokens in the slots `target`; a target beyond the last slot is not written."""
        rows_b1 = jnp.arange(target_bt.shape[0])[:, None]

        def write(slots, values):
            return slots.at[rows_b1, target_bt].set(values.astype(slots.dtype), mode="drop")

        new = write(self.k_bsgk, k_btgk), write(self.v_bsgk, v_btgk), write(self.segments_bs, segments_bt)
        return self.replace(k_bsgk=new[0], v_bsgk=new[1], segments_bs=new[2], length_b=length_b)


class KVCache(Cache):
    """All tokens in order."""

    def extend(self, k_btgk: jax.Array, v_btgk: jax.Array, segments_bt: jax.Array) -> tuple["KVCache", Seen]:
        """The state after these tokens (padding is not written), and what they see."""
        order_bt = self.order(segments_bt)
        target_bt = jnp.where(segments_bt > 0, order_bt, self.slots)
        new = self.put(target_bt, k_btgk, v_btgk, segments_bt, order_bt[:, -1] + 1)
        return new, Seen(new.k_bsgk, new.v_bsgk, new.segments_bs, None, order_bt, order_bt >= self.slots)


class RingCache(Cache):
    """The last tokens of a window: token number n lies in slot n mod S, so the state does not grow with the text.

    S is the window, or fewer where the state was made for a shorter text; then a token beyond S is lost.
    """

    window: int = struct.field(pytree_node=False)

    def slot_of(self, order_b):
        return order_b % self.slots

    def extend(self, k_btgk: jax.Array, v_btgk: jax.Array, segments_bt: jax.Array) -> tuple["RingCache", Seen]:
        """The state after these tokens (padding is not written), and what they see: what the ring held, then themselves."""
        order_bt = self.order(segments_bt)
        after_b = order_bt[:, -1] + 1
        stays_bt = (segments_bt > 0) & (order_bt >= after_b[:, None] - self.slots)
        target_bt = jnp.where(stays_bt, self.slot_of(order_bt), self.slots)
        # The newest token of slot i before this call is the largest number below length that is i mod S.
        before_b1, slot_s = self.length_b[:, None] - 1, jnp.arange(self.slots)
        held_bs = before_b1 - (before_b1 - slot_s) % self.slots

        def both(old, new):
            return jnp.concatenate([old, new.astype(old.dtype)], axis=1)

        seen = Seen(
            both(self.k_bsgk, k_btgk), both(self.v_bsgk, v_btgk), both(self.segments_bs, segments_bt), both(held_bs, order_bt),
            order_bt, (order_bt >= self.slots) & (self.slots < self.window),
        )  # fmt: skip
        return self.put(target_bt, k_btgk, v_btgk, segments_bt, after_b), seen
