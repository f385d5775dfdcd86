"""What recurrent mixers share: where documents begin, what padding is, and the state that decoding carries."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct


class RecurrentState(struct.PyTreeNode):
    """A recurrent mixer's state: its accumulators (at least float32), the tails of its short convolutions, and each row's last segment (0: none yet)."""

    memory: Any
    tails: Any
    segment_b: jax.Array

    @classmethod
    def empty(cls, batch: int, memory: Any, tails: Any = ()) -> "RecurrentState":
        return cls(memory, tails, jnp.zeros((batch,), jnp.int32))


class Documents(NamedTuple):
    """How a call's tokens fall into documents. None where nothing needs to be done: no padding, no document begins.

    real_bt (B, T) marks what is not padding; reset_bt the real tokens before which everything is forgotten, the state included: those whose
    document differs from that of the real token before them. A row that holds nothing yet is not reset. last_b (B,) is the segment of each
    row's last real token after the call.
    """

    segments_bt: jax.Array | None
    real_bt: jax.Array | None
    reset_bt: jax.Array | None
    last_b: jax.Array | None


def documents(segment_ids: jax.Array | None, state: RecurrentState | None) -> Documents:
    """The documents of a call with these segments after this state; segment_ids=None goes on with each row's last document."""
    if segment_ids is None:
        return Documents(None, None, None, None if state is None else jnp.maximum(state.segment_b, 1))
    batch, length = segment_ids.shape
    before_b1 = jnp.zeros((batch, 1), segment_ids.dtype) if state is None else state.segment_b[:, None]
    real_bt = segment_ids > 0
    # The segment of the last real token up to and with t; column 0 is the state's.
    seen_bs = jnp.concatenate([before_b1, segment_ids], axis=1)
    newest_bs = jax.lax.cummax(jnp.where(seen_bs > 0, jnp.arange(length + 1), 0), axis=1)
    latest_bs = jnp.take_along_axis(seen_bs, newest_bs, axis=1)
    reset_bt = real_bt & (latest_bs[:, :-1] > 0) & (latest_bs[:, :-1] != segment_ids)
    return Documents(segment_ids, real_bt, reset_bt, latest_bs[:, -1])
