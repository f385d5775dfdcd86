"""What mixers share that attend within groups of tokens: the state, and attention with or without it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from effllm import ops
from effllm.nn.cache import KVCache


class GroupState(struct.PyTreeNode):
    """Keys and values of all tokens in order, and the groups (B, S, H, R) that each was put into, in each of R rounds."""

    cache: KVCache
    groups_bshr: jax.Array

    @classmethod
    def empty(cls, batch: int, slots: int, heads: int, head_dim: int, rounds: int, dtype: Any) -> "GroupState":
        return cls(KVCache.empty(batch, slots, heads, head_dim, head_dim, dtype), jnp.zeros((batch, slots, heads, rounds), jnp.int32))


def attend(
    q_bthk: jax.Array, k_bthk: jax.Array, v_bthv: jax.Array, groups_bthr: jax.Array, count: int, state: GroupState | None, segment_ids: jax.Array | None,
    positions: jax.Array, *, window: int, scale: float, strict: bool = False,
) -> tuple[jax.Array, GroupState | None]:  # fmt: skip
    """(o, state): attention to the last `window` tokens of each token's group (below `count`) in its document; R rounds are joined by their logsumexp."""
    rounds, options = range(groups_bthr.shape[-1]), {"window": window, "scale": scale, "strict": strict}

    def ids(groups_bth, segments_bt):
        return jnp.where(segments_bt[..., None] > 0, segments_bt[..., None] * count + groups_bth, 0)

    if state is None:
        segments_bt = jnp.ones(q_bthk.shape[:2], jnp.int32) if segment_ids is None else segment_ids
        parts = [ops.group_attention(q_bthk, k_bthk, v_bthv, ids(groups_bthr[..., r], segments_bt), **options) for r in rounds]
        return ops.join(parts)[0], None
    held, made = state.groups_bshr.shape[2:], groups_bthr.shape[2:]
    if held != made:
        raise ValueError(f"the state holds groups of {held} (heads, rounds), this mixer makes {made}: it is another model's state")
    segments_bt = state.cache.segments(segment_ids, q_bthk)
    cache, seen = state.cache.extend(k_bthk, v_bthv, segments_bt, positions)
    target_bt = jnp.where(segments_bt > 0, seen.q_order_bt, cache.slots)
    groups_bshr = state.groups_bshr.at[jnp.arange(q_bthk.shape[0])[:, None], target_bt].set(groups_bthr, mode="drop")
    k_bshk, v_bshv = seen.k_bsgk.astype(q_bthk.dtype), seen.v_bsgk.astype(v_bthv.dtype)
    parts = [
        ops.remembered_group_attention(q_bthk, k_bshk, v_bshv, ids(groups_bshr[..., r], seen.k_segments_bs), seen.q_order_bt, **options) for r in rounds
    ]
    o_bthv = jnp.where(seen.lost_bt[..., None, None], jnp.nan, ops.join(parts)[0])
    return o_bthv, GroupState(cache, groups_bshr)
