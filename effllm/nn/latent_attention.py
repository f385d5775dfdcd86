"""Multi-head latent attention: keys and values of all heads from one small vector a token, which is all that decoding keeps."""

from typing import Any, ClassVar

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm import ops
from effllm.nn.cache import KVCache
from effllm.nn.init import FanIn, Initializer
from effllm.nn.linear import Kernel, Linear
from effllm.nn.mixer import Mixer
from effllm.nn.norm import Norm, RMSNorm
from effllm.nn.position import Position, RoPE
from effllm.nn.rebuild import adopt
from effllm.shard import axis_size, fits, shard


class LatentAttention(Mixer):
    """MLA (DeepSeek-AI 2024, arXiv 2405.04434): c = norm(W_down x) of `latent` channels; head h has keys [W_k,h c; r] and values W_v,h c.

    r = rotate(W_r x) of `rope_dim` channels carries the position and is one for all heads. Queries [q; rotate(q_r)] come from x, or from
    norm(W x) of `query_latent` channels where that is given. o = softmax(q·k / √(head_dim + rope_dim)) v.

    Training makes keys and values out of c, O(T²·H·(head_dim + rope_dim)). Decoding keeps c and r, latent + rope_dim numbers a token for all heads together, and never
    makes keys: q·W_k,h c = (W_k,hᵀ q)·c, and the values' map is applied after the softmax, so it is attention of H heads over one shared key of
    latent + rope_dim channels. Raises ValueError for positions that are no rotation.
    """

    heads: int = 4
    head_dim: int = 16
    value_dim: int | None = None
    rope_dim: int = 8
    latent: int = 24
    query_latent: int | None = None
    position: Position = RoPE(interleaved=True)
    norm: Norm = RMSNorm()
    soft_cap: float | None = None
    output_init: Initializer = FanIn()
    implementation: str | None = None
    variants: ClassVar = ({"query_latent": 20, "value_dim": 12},)

    def sizes(self) -> tuple[int, int]:
        """(channels of a key, of a value)."""
        return self.head_dim + self.rope_dim, self.head_dim if self.value_dim is None else self.value_dim

    def init_state(self, batch: int, length: int, width: int, dtype: Any) -> KVCache:
        return KVCache.empty(batch, length, 1, self.latent + self.rope_dim, 0, dtype)

    def flops(self, length, width):
        return length * self.heads * sum(self.sizes())

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        if fits("heads", self.heads) is None:
            raise ValueError(f"LatentAttention: heads={self.heads} is not divisible by the mesh's tensor axis of {axis_size('heads')}")
        if self.position.bias(self.heads, self.rope_dim) is not None or self.position.key_dim(self.rope_dim) != self.rope_dim:
            raise ValueError(f"LatentAttention: position={type(self.position).__name__} is no rotation; RoPE is")
        key_dim, value_dim = self.sizes()
        down_btc = x_btd
        if self.query_latent is not None:
            down_btc = adopt(self, self.norm, "q_norm")(Linear(self.query_latent, ("width", None), name="q_down")(x_btd))
        q_bthk = rearrange(Linear(self.heads * key_dim, ("width", "heads"), name="q")(down_btc), "b t (h k) -> b t h k", h=self.heads)
        q_bthk = shard(q_bthk, "batch", "length", "heads", None)
        compressed_btc = Linear(self.latent + self.rope_dim, ("width", None), name="kv_down")(x_btd)
        c_btc = adopt(self, self.norm, "kv_norm")(compressed_btc[..., : self.latent])
        q_turned_bthr, r_bt1r = self.position.rotate(q_bthk[..., self.head_dim :], compressed_btc[:, :, None, self.latent :], positions)
        up_chv = Kernel(self.latent, self.heads * (self.head_dim + value_dim), (None, "heads"), name="kv_up")(x_btd.dtype)
        up_chv = up_chv.reshape(self.latent, self.heads, -1)
        q_bthn, options = q_bthk[..., : self.head_dim], {"scale": key_dim**-0.5, "soft_cap": self.soft_cap, "implementation": self.implementation}
        if state is None:
            kv_bthv = jnp.einsum("btc,chv->bthv", c_btc, up_chv)
            r_bthr = jnp.broadcast_to(r_bt1r, (*kv_bthv.shape[:3], self.rope_dim))
            k_bthk = shard(jnp.concatenate([kv_bthv[..., : self.head_dim], r_bthr], -1), "batch", "length", "heads", None)
            q_bthk = jnp.concatenate([q_bthn, q_turned_bthr], -1)
            v_bthv = shard(kv_bthv[..., self.head_dim :], "batch", "length", "heads", None)
            o_bthv = ops.attention(q_bthk, k_bthk, v_bthv, q_segments_bt=segment_ids, k_segments_bs=segment_ids, **options)
        else:
            segment_ids = state.segments(segment_ids, x_btd)
            kept_bt1k = jnp.concatenate([c_btc[:, :, None], r_bt1r], -1)
            state, seen = state.extend(kept_bt1k, kept_bt1k[..., :0], segment_ids, positions)
            k_bs1k = seen.k_bsgk.astype(x_btd.dtype)
            q_bthk = jnp.concatenate([jnp.einsum("bthn,chn->bthc", q_bthn, up_chv[..., : self.head_dim]), q_turned_bthr], -1)
            o_bthc = ops.attention(
                q_bthk, k_bs1k, k_bs1k[..., : self.latent], q_order_bt=seen.q_order_bt, k_order_bs=seen.k_order_bs, q_segments_bt=segment_ids,
                k_segments_bs=seen.k_segments_bs, **options,
            )  # fmt: skip
            o_bthv = jnp.einsum("bthc,chv->bthv", o_bthc, up_chv[..., self.head_dim :])
            o_bthv = jnp.where(seen.lost_bt[..., None, None], jnp.nan, o_bthv)
        o_btv = rearrange(o_bthv, "b t h v -> b t (h v)")
        return Linear(x_btd.shape[-1], ("heads", "width"), False, self.output_init, name="output")(o_btv), state
