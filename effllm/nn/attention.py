"""Softmax attention as a mixer: MHA, MQA and GQA, with a key/value cache as its state."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from flax import struct

from effllm import ops
from effllm.nn.init import FanIn, Initializer
from effllm.nn.linear import Linear
from effllm.nn.mixer import Mixer
from effllm.nn.norm import Norm
from effllm.nn.position import Position, RoPE
from effllm.nn.rebuild import adopt
from effllm.shard import axis_size, fits, shard


class KVCache(struct.PyTreeNode):
    """Keys and values of the tokens seen so far, in order, with each slot's segment; row b holds `length[b]` of S slots."""

    k_bsgk: jax.Array
    v_bsgk: jax.Array
    segments_bs: jax.Array  # 0 marks an empty slot
    length_b: jax.Array

    @classmethod
    def empty(cls, batch: int, length: int, kv_heads: int, head_dim: int, dtype: Any) -> "KVCache":
        k = jnp.zeros((batch, length, kv_heads, head_dim), dtype)
        return cls(k, k, jnp.zeros((batch, length), jnp.int32), jnp.zeros((batch,), jnp.int32))

    def last_segment(self) -> jax.Array:
        """(B,) the segment of each row's last token; 1 in an empty row."""
        last_b1 = jnp.maximum(self.length_b - 1, 0)[:, None]
        return jnp.maximum(jnp.take_along_axis(self.segments_bs, last_b1, axis=1)[:, 0], 1)

    def write(self, k_btgk: jax.Array, v_btgk: jax.Array, segments_bt: jax.Array) -> tuple["KVCache", jax.Array]:
        """The cache with these tokens appended, and each token's slot (B, T); padding is not written."""
        valid_bt = segments_bt > 0
        slot_bt = self.length_b[:, None] + jnp.cumsum(valid_bt, axis=1, dtype=jnp.int32) - 1
        target_bt = jnp.where(valid_bt, slot_bt, self.segments_bs.shape[1])
        rows_b1 = jnp.arange(slot_bt.shape[0])[:, None]

        def put(slots, values):
            return slots.at[rows_b1, target_bt].set(values.astype(slots.dtype), mode="drop")

        cache = KVCache(put(self.k_bsgk, k_btgk), put(self.v_bsgk, v_btgk), put(self.segments_bs, segments_bt), slot_bt[:, -1] + 1)
        return cache, slot_bt


class Attention(Mixer):
    """Multi-head softmax attention, o = softmax(q kᵀ/√K) v (Vaswani et al. 2017, arXiv 1706.03762).

    kv_heads=None gives each query head its own keys and values (MHA), 1 shares one among all (MQA, Shazeer 2019, arXiv 1911.02150), a
    divisor of heads shares by groups (GQA, Ainslie et al. 2023, arXiv 2305.13245). head_dim=None is width / heads. `qk_norm`
    normalises queries and keys over head_dim before they turn (Dehghani et al. 2023, arXiv 2302.05442).

    Training O(T²·H·K) time, O(T) memory by blocks; decoding state 2·T·G·K numbers. A row written beyond its state's length gives NaN.
    Raises ValueError where heads or kv_heads do not divide.
    """

    heads: int = 4
    kv_heads: int | None = None
    head_dim: int | None = None
    position: Position = RoPE()
    qk_norm: Norm | None = None
    bias: bool = False
    output_bias: bool = False
    soft_cap: float | None = None
    output_init: Initializer = FanIn()
    implementation: str | None = None
    variants: ClassVar = ({"kv_heads": 2}, {"kv_heads": 1, "soft_cap": 20.0}, {"position": Position(), "bias": True, "output_bias": True})

    def dims(self, width: int) -> tuple[int, int]:
        """(kv_heads, head_dim) at this width."""
        kv_heads = self.heads if self.kv_heads is None else self.kv_heads
        if min(self.heads, kv_heads) < 1 or self.heads % kv_heads:
            raise ValueError(f"Attention: heads={self.heads} is not a multiple of kv_heads={kv_heads}")
        if self.head_dim is None and width % self.heads:
            raise ValueError(f"Attention: width={width} is not a multiple of heads={self.heads}; change heads or give head_dim")
        return kv_heads, width // self.heads if self.head_dim is None else self.head_dim

    def init_state(self, batch, length, width, dtype):
        kv_heads, head_dim = self.dims(width)
        return KVCache.empty(batch, length, kv_heads, head_dim, dtype)

    def flops(self, length, width):
        return 2.0 * length * self.heads * self.dims(width)[1]  # QKᵀ and PV, the causal half of 2·2·T·H·K

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        kv_heads, head_dim = self.dims(x_btd.shape[-1])
        groups = fits("kv_heads", kv_heads)
        if fits("heads", self.heads) is None:
            raise ValueError(f"Attention: heads={self.heads} is not divisible by the mesh's tensor axis of {axis_size('heads')}")

        def project(name, heads, axis):
            y = Linear(heads * head_dim, ("width", axis), self.bias, name=name)(x_btd)
            return shard(rearrange(y, "b t (h k) -> b t h k", h=heads), "batch", "length", axis, None)

        q_bthk = project("q", self.heads, "heads")
        k_btgk, v_btgk = project("k", kv_heads, groups), project("v", kv_heads, groups)
        if self.qk_norm is not None:
            q_bthk, k_btgk = adopt(self, self.qk_norm, "q_norm")(q_bthk), adopt(self, self.qk_norm, "k_norm")(k_btgk)
        q_bthk, k_btgk = self.position.rotate(q_bthk, k_btgk, positions)
        options = {"soft_cap": self.soft_cap, "implementation": self.implementation}
        if state is None:
            o_bthk = ops.attention(q_bthk, k_btgk, v_btgk, q_segments_bt=segment_ids, k_segments_bs=segment_ids, **options)
        else:
            if segment_ids is None:
                segment_ids = jnp.broadcast_to(state.last_segment()[:, None], x_btd.shape[:2])
            state, order_bt = state.write(k_btgk, v_btgk, segment_ids)
            keys = state.k_bsgk.astype(q_bthk.dtype), state.v_bsgk.astype(q_bthk.dtype)
            o_bthk = ops.attention(
                q_bthk, *keys, q_order_bt=order_bt, q_segments_bt=segment_ids, k_segments_bs=state.segments_bs, **options
            )
            o_bthk = jnp.where(order_bt[..., None, None] < keys[0].shape[1], o_bthk, jnp.nan)
        y_btd = Linear(x_btd.shape[-1], ("heads", "width"), self.output_bias, self.output_init, name="output")(
            rearrange(o_bthk, "b t h k -> b t (h k)")
        )
        return y_btd, state
