"""Keys and values as the state of attention: all of them, or the document's first and last ones in a ring."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from effllm import kernels


class Seen(NamedTuple):
    """What the queries of a call attend to: keys and values (B, S, G, K) with their segments, orders and positions, the queries' own order, and
    which queries (B, T) lie beyond what the state can hold."""

    k_bsgk: jax.Array
    v_bsgk: jax.Array
    k_segments_bs: jax.Array
    k_order_bs: jax.Array
    k_positions_bs: jax.Array
    q_order_bt: jax.Array
    lost_bt: jax.Array


def check_heads(held: jax.Array, new: jax.Array, what: str) -> None:
    """Raise ValueError where new vectors (B, T, G, K) are not of the heads and the width of those held, (…, G, K)."""
    if held.shape[-2:] != new.shape[-2:]:
        raise ValueError(f"the state holds {what} of {held.shape[-2:]} (heads, head_dim), these are of {new.shape[-2:]}: it is another model's state")


class Rows:
    """What every state of attention knows of its rows: the tokens that each has seen (`length_b`) and the segment of the last (`segment_b`)."""

    def segments(self, segment_ids: jax.Array | None, x_btd: jax.Array) -> jax.Array:
        """(B, T) the new tokens' segments; None continues each row's last (1 in an empty row). Raises ValueError for another batch size."""
        if x_btd.shape[0] != self.length_b.shape[0]:
            raise ValueError(f"the state holds {self.length_b.shape[0]} rows, the input has {x_btd.shape[0]}: init_state(batch={x_btd.shape[0]}, …)")
        return jnp.broadcast_to(self.segment_b[:, None], x_btd.shape[:2]) if segment_ids is None else segment_ids

    def order(self, segments_bt: jax.Array) -> jax.Array:
        """(B, T) the number of each new token in its row; padding has that of the token before it."""
        return self.length_b[:, None] + jnp.cumsum(segments_bt > 0, axis=1, dtype=jnp.int32) - 1

    def counted(self, segments_bt: jax.Array) -> Any:
        """With these tokens counted and the last one's segment noted."""
        real_bt = segments_bt > 0
        last_b = jnp.argmax(jnp.where(real_bt, jnp.arange(1, segments_bt.shape[1] + 1), 0), axis=1)
        last_b = jnp.take_along_axis(segments_bt, last_b[:, None], axis=1)[:, 0]
        return self.replace(length_b=self.length_b + real_bt.sum(1, dtype=jnp.int32), segment_b=jnp.where(last_b > 0, last_b, self.segment_b))


class Cache(Rows, struct.PyTreeNode):
    """Base of both: row b holds slots of keys and values, each with its segment (0 marks an empty slot), its number in the row and its position in
    its document, and the number of tokens that the row has seen and the segment of the last."""

    k_bsgk: jax.Array
    v_bsgk: jax.Array
    segments_bs: jax.Array
    order_bs: jax.Array
    positions_bs: jax.Array
    length_b: jax.Array
    segment_b: jax.Array

    @classmethod
    def empty(cls, batch: int, slots: int, kv_heads: int, key_dim: int, value_dim: int, dtype: Any, **static: Any) -> "Cache":
        k, v = (jnp.zeros((batch, slots, kv_heads, dim), dtype) for dim in (key_dim, value_dim))
        numbers = (jnp.zeros((batch, slots), jnp.int32) for _ in range(3))
        return cls(k, v, *numbers, jnp.zeros((batch,), jnp.int32), jnp.ones((batch,), jnp.int32), **static)

    @property
    def slots(self) -> int:
        return self.segments_bs.shape[1]

    def attend(self, q_bthk, k_btgk, v_btgk, segments_bt, positions_bt, options: dict[str, Any]) -> tuple["Cache", tuple[jax.Array, jax.Array]]:
        """The state after these tokens, and what ops.attention with these `options` gives their queries; NaN for those beyond the state."""
        state, seen = self.extend(k_btgk, v_btgk, segments_bt, positions_bt)
        o_bthk, lse_bth = kernels.attention(
            q_bthk, seen.k_bsgk.astype(q_bthk.dtype), seen.v_bsgk.astype(q_bthk.dtype), q_order_bt=seen.q_order_bt, k_order_bs=seen.k_order_bs,
            q_segments_bt=segments_bt, k_segments_bs=seen.k_segments_bs, q_positions_bt=positions_bt, k_positions_bs=seen.k_positions_bs, **options,
        )  # fmt: skip
        return state, (jnp.where(seen.lost_bt[..., None, None], jnp.nan, o_bthk), lse_bth)

    def written(self, target_bt: jax.Array, k_btgk, v_btgk, segments_bt, order_bt, positions_bt) -> "Cache":
        """With the new tokens in the slots `target`; a target beyond the last slot is not written. Raises ValueError for other heads or widths."""
        check_heads(self.k_bsgk, k_btgk, "keys")
        check_heads(self.v_bsgk, v_btgk, "values")
        rows_b1 = jnp.arange(target_bt.shape[0])[:, None]

        def write(slots, values):
            return slots.at[rows_b1, target_bt].set(values.astype(slots.dtype), mode="drop")

        return self.replace(
            k_bsgk=write(self.k_bsgk, k_btgk), v_bsgk=write(self.v_bsgk, v_btgk), segments_bs=write(self.segments_bs, segments_bt),
            order_bs=write(self.order_bs, order_bt), positions_bs=write(self.positions_bs, positions_bt),
        )  # fmt: skip


class KVCache(Cache):
    """All tokens in order."""

    def extend(self, k_btgk: jax.Array, v_btgk: jax.Array, segments_bt: jax.Array, positions_bt: jax.Array) -> tuple["KVCache", Seen]:
        """The state after these tokens (padding is not written), and what they see."""
        order_bt = self.order(segments_bt)
        target_bt = jnp.where(segments_bt > 0, order_bt, self.slots)
        new = self.counted(segments_bt).written(target_bt, k_btgk, v_btgk, segments_bt, order_bt, positions_bt)
        return new, Seen(new.k_bsgk, new.v_bsgk, new.segments_bs, new.order_bs, new.positions_bs, order_bt, order_bt >= self.slots)


class RingCache(Cache):
    """The last tokens of a text and, in slots of their own, the `first` ones of the last document, so that the state does not grow with the text.

    Token number n lies in slot first + n mod R of a ring of R = slots − first, which is the `window`, or fewer where the state was made for a
    shorter text; then a token beyond is lost. The first tokens lie in their positions' slots too, and are seen there once they left the ring.
    """

    window: int = struct.field(pytree_node=False)
    first: int = struct.field(pytree_node=False)

    def extend(self, k_btgk: jax.Array, v_btgk: jax.Array, segments_bt: jax.Array, positions_bt: jax.Array) -> tuple["RingCache", Seen]:
        """The state after these tokens (padding is not written), and what they see: what the state held, then themselves."""
        order_bt, ring, real_bt = self.order(segments_bt), self.slots - self.first, segments_bt > 0
        new_tokens = k_btgk, v_btgk, segments_bt, order_bt, positions_bt
        after = self.counted(segments_bt)
        stays_bt = real_bt & (order_bt >= after.length_b[:, None] - ring)
        state = after.written(jnp.where(stays_bt, self.first + order_bt % ring, self.slots), *new_tokens)
        held_bs = self.segments_bs
        if self.first:
            is_first_bt = real_bt & (positions_bt < self.first) & (segments_bt == after.segment_b[:, None])
            state = state.written(jnp.where(is_first_bt, positions_bt, self.slots), *new_tokens).without_earlier_documents()
            left_bs = (jnp.arange(self.slots) >= self.first) | (self.order_bs < self.length_b[:, None] - ring)
            held_bs = jnp.where(left_bs, held_bs, 0)

        def both(old, new):
            return jnp.concatenate([old, new.astype(old.dtype)], axis=1)

        seen = Seen(
            both(self.k_bsgk, k_btgk), both(self.v_bsgk, v_btgk), both(held_bs, segments_bt), both(self.order_bs, order_bt),
            both(self.positions_bs, positions_bt), order_bt, (order_bt >= ring) & (ring < self.window),
        )  # fmt: skip
        return state, seen

    def without_earlier_documents(self) -> "RingCache":
        """With the slots of first tokens emptied where they hold another document's."""
        empty_bs = (jnp.arange(self.slots) < self.first) & (self.segments_bs != self.segment_b[:, None])

        def clear(slots):
            return jnp.where(empty_bs.reshape(*empty_bs.shape, *[1] * (slots.ndim - 2)), 0, slots)

        return self.replace(
            k_bsgk=clear(self.k_bsgk), v_bsgk=clear(self.v_bsgk), segments_bs=clear(self.segments_bs), order_bs=clear(self.order_bs),
            positions_bs=clear(self.positions_bs),
        )  # fmt: skip
