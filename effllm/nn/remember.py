"""Keys and values of all tokens as the state of mixers that look at them in ways of their own."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from effllm.nn.cache import KVCache


class Memory(NamedTuple):
    """What the queries of a call may look at: keys and values (B, S, H, K) in order with their segments (0: nothing there) and orders, and for the queries
    (B, T) the slot of each, which is its order too, its segment, and whether it lies beyond what the state can hold."""

    k_bshk: jax.Array
    v_bshk: jax.Array
    segments_bs: jax.Array
    order_bs: jax.Array
    place_bt: jax.Array
    q_segments_bt: jax.Array
    lost_bt: jax.Array


def remember(
    state: KVCache | None, k_bthk: jax.Array, v_bthk: jax.Array, segment_ids: jax.Array | None, positions: jax.Array
) -> tuple[KVCache | None, Memory]:
    """(state after the new tokens, what they may look at): themselves alone without a state."""
    if state is None:
        segments_bt = jnp.ones(k_bthk.shape[:2], jnp.int32) if segment_ids is None else segment_ids
        order_bt = jnp.broadcast_to(jnp.arange(k_bthk.shape[1]), segments_bt.shape)
        return None, Memory(k_bthk, v_bthk, segments_bt, order_bt, order_bt, segments_bt, jnp.zeros(segments_bt.shape, bool))
    segments_bt = state.segments(segment_ids, k_bthk)
    state, seen = state.extend(k_bthk, v_bthk, segments_bt, positions)
    k_bshk, v_bshk = seen.k_bsgk.astype(k_bthk.dtype), seen.v_bsgk.astype(v_bthk.dtype)
    return state, Memory(k_bshk, v_bshk, seen.k_segments_bs, seen.k_order_bs, seen.q_order_bt, segments_bt, seen.lost_bt)
