"""Attention within buckets of a locality-sensitive hash."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm.nn.groups import GroupState, attend
from effllm.nn.heads import head_dim, merge_heads, split_heads
from effllm.nn.mixer import Mixer
from effllm.nn.position import RoPE


class Reformer(Mixer):
    """LSH attention: queries are the keys (k = q/‖q‖), and a token sees the last `window` tokens before it in its bucket (Kitaev et al. 2020, arXiv 2001.04451).

    The bucket is argmax [xR, −xR] of the unrotated query with random R (K, buckets/2), which the `seed` fixes; `rounds` of them are joined by
    their logsumexp, so that a key met twice counts twice; scores are q·k, not divided by √K: both as in the authors' code. A token sees itself
    only where it sees no other. The paper sorts by bucket and cuts the whole sequence into chunks of which a token sees its own and the one
    before; where chunks begin then depends on later tokens. Here the chunk is a window within the bucket, which depends on none.
    `position=None` leaves the rotation out.

    O(rounds·T·(window·D + log T)) time, O(T) memory; state 2·D numbers a token and its buckets. Raises ValueError for an odd number of buckets.
    """

    heads: int = 4
    buckets: int = 16
    window: int = 64
    rounds: int = 2
    seed: int = 0
    position: RoPE | None = RoPE()
    variants: ClassVar = ({"buckets": 2, "window": 3, "rounds": 1},)

    def init_state(self, batch, length, width, dtype):
        return GroupState.empty(batch, length, self.heads, head_dim(self, width), self.rounds, dtype)

    def flops(self, length, width):
        return self.rounds * (4.0 * min(self.window, length / (2 * self.buckets)) * width + self.buckets * width)

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        dim = head_dim(self, x_btd.shape[-1])
        if self.buckets < 2 or self.buckets % 2:
            raise ValueError(f"Reformer: buckets={self.buckets} must be even, a direction and its opposite each")
        if min(self.window, self.rounds) < 1:
            raise ValueError(f"Reformer: window={self.window} and rounds={self.rounds} must be at least 1")
        q_bthk, v_bthk = (split_heads(x_btd, self.heads, dim, name) for name in ("qk", "v"))
        wide = jnp.promote_types(q_bthk.dtype, jnp.float32)
        direction_hkrf = jax.random.normal(jax.random.key(self.seed), (self.heads, dim, self.rounds, self.buckets // 2), wide)
        side_bthrf = jnp.einsum("bthk,hkrf->bthrf", jax.lax.stop_gradient(q_bthk).astype(wide), direction_hkrf)
        bucket_bthr = jnp.argmax(jnp.concatenate([side_bthrf, -side_bthrf], axis=-1), axis=-1).astype(jnp.int32)
        size_bth1 = jnp.sqrt(jnp.sum(q_bthk.astype(wide) ** 2, axis=-1, keepdims=True) + 1e-6)
        k_bthk = (q_bthk / size_bth1).astype(q_bthk.dtype)
        if self.position is not None:
            q_bthk, k_bthk = self.position.rotate(q_bthk, k_bthk, positions)
        o_bthk, state = attend(
            q_bthk, k_bthk, v_bthk, bucket_bthr, self.buckets, state, segment_ids, positions, window=self.window, scale=1.0, strict=True
        )
        return merge_heads(o_bthk, x_btd.shape[-1]), state
