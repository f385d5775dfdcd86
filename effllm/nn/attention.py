"""Softmax attention as a mixer: MHA, MQA and GQA, whole, in a sliding window or a sparse pattern, with a key/value cache as its state."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm import kernels, ops
from effllm.nn.cache import KVCache, RingCache
from effllm.nn.paged import PagedCache
from effllm.nn.init import FanIn, Fill, Initializer
from effllm.nn.linear import Linear, parameter
from effllm.nn.mixer import Mixer
from effllm.nn.norm import Norm
from effllm.nn.position import Position, RoPE
from effllm.nn.rebuild import adopt
from effllm.shard import axis_size, fits, shard


class Attention(Mixer):
    """Multi-head softmax attention, o = softmax(q kᵀ/√K) v (Vaswani et al. 2017, arXiv 1706.03762).

    kv_heads=None gives each query head its own keys and values (MHA), 1 shares one among all (MQA, Shazeer 2019, arXiv 1911.02150), a
    divisor of heads shares by groups (GQA, Ainslie et al. 2023, arXiv 2305.13245). head_dim=None is width / heads. `qk_norm`
    normalises queries and keys over head_dim before they turn (Dehghani et al. 2023, arXiv 2302.05442). With a `window` W a token sees
    itself and the W − 1 before it (Child et al. 2019, arXiv 1904.10509; Beltagy et al. 2020, arXiv 2004.05150): slots of the row in training, where
    padding within a document takes places, real tokens in a decoding state. A `pattern` (ops.Pattern) says of positions in a document which see
    each other. `sinks` adds a learned logit a head to the softmax's sum, which takes attention from all keys
    (OpenAI 2025, arXiv 2508.10925). `pages` keeps the decoding state in a pool of so many pages of 16 tokens that all rows share (see PagedCache).
    `scale` multiplies the scores, K^(-1/2) by default. `bidirectional` sees both sides: for an EncoderLM.

    Training O(T²·H·K) time, O(T·W·H·K) with a window, O(T) memory by blocks; decoding state 2·G·K numbers for each of T tokens, or of W in a ring.
    `implementation` is one of kernels.attention's. A row written beyond its state's length gives NaN. Raises ValueError where heads or kv_heads do not
    divide, for a window together with a pattern, and for a position whose bias does not fit `scale` or `bidirectional`.
    """

    heads: int = 4
    kv_heads: int | None = None
    head_dim: int | None = None
    position: Position = RoPE()
    qk_norm: Norm | None = None
    bias: bool = False
    output_bias: bool = False
    soft_cap: float | None = None
    window: int | None = None
    pattern: ops.Pattern | None = None
    sinks: bool = False
    pages: int | None = None
    scale: float | None = None
    bidirectional: bool = False
    output_init: Initializer = FanIn()
    implementation: str | None = None
    variants: ClassVar = (
        {"kv_heads": 2}, {"kv_heads": 1, "soft_cap": 20.0}, {"position": Position(), "bias": True, "output_bias": True}, {"window": 4, "kv_heads": 2},
        {"pattern": ops.StreamingLLM(3, 2), "sinks": True, "kv_heads": 2}, {"pattern": ops.Fixed(4, 1)}, {"pattern": ops.Strided(3)},
        {"pattern": ops.BlockLocal(4)}, {"pages": 3, "kv_heads": 2}, {"pattern": ops.BigBird(2, 1, 1, 1)}, {"pattern": ops.Longformer(3, (1,)), "bidirectional": True},
    )  # fmt: skip

    @property
    def causal(self) -> bool:
        return not self.bidirectional

    def dims(self, width: int) -> tuple[int, int]:
        """(kv_heads, head_dim) at this width."""
        kv_heads = self.heads if self.kv_heads is None else self.kv_heads
        if min(self.heads, kv_heads) < 1 or self.heads % kv_heads:
            raise ValueError(f"Attention: heads={self.heads} is not a multiple of kv_heads={kv_heads}")
        if self.window is not None and self.window < 1:
            raise ValueError(f"Attention: window={self.window} must be at least 1, where a token sees itself alone; None sees all")
        if self.window is not None and self.pattern is not None:
            raise ValueError(f"Attention: window={self.window} and pattern={self.pattern} are both given; a StreamingLLM pattern has a window of its own")
        position = type(self.position).__name__
        if self.bidirectional and self.position.one_sided:
            raise ValueError(f"Attention: position={position} serves earlier keys alone, bidirectional=True sees later ones; give RoPE() or T5Bias(bidirectional=True)")
        if self.scale is not None and self.position.of_queries:
            raise ValueError(f"Attention: scale={self.scale} does not reach what position={position} says of queries, which it divides by √K; leave scale=None")
        if self.soft_cap is not None and self.soft_cap <= 0:
            raise ValueError(f"Attention: soft_cap={self.soft_cap} must be positive; None leaves scores as they are")
        if self.pages is not None and (self.pages < 1 or self.kept[1] is not None):
            raise ValueError(f"Attention: pages={self.pages} must be at least 1, and goes with attention that keeps the whole text")
        if self.head_dim is not None and self.head_dim < 1:
            raise ValueError(f"Attention: head_dim={self.head_dim} must be at least 1; None is width / heads")
        if self.head_dim is None and width % self.heads:
            raise ValueError(f"Attention: width={width} is not a multiple of heads={self.heads}; change heads or give head_dim")
        return kv_heads, width // self.heads if self.head_dim is None else self.head_dim

    def init_state(self, batch, length, width, dtype):
        if self.bidirectional:
            raise ValueError("Attention: bidirectional=True sees the future: it cannot decode token by token")
        kv_heads, head_dim = self.dims(width)
        dims = kv_heads, self.position.key_dim(head_dim), head_dim, dtype
        first, last = self.kept
        if self.pages is not None:
            return PagedCache.empty(batch, length, *dims, pages=self.pages)
        if last is None:
            return KVCache.empty(batch, length, *dims)
        return RingCache.empty(batch, first + min(length, last), *dims, window=last, first=first)

    @property
    def kept(self) -> tuple[int, int | None]:
        """(first, last): decoding keeps the document's first tokens and the last ones; None is all."""
        state = (0, self.window) if self.pattern is None else self.pattern.state
        return (0, None) if state is None else state

    def flops(self, length, width):
        seen = length / 2  # keys a query sees on average: the causal half, or the window's width less what the start of the text lacks
        if self.window is not None and self.window < length:
            seen = self.window - self.window**2 / (2 * length)
        if self.pattern is not None:
            seen = self.pattern.keys_seen(length)
        return 4.0 * seen * (1 + self.bidirectional) * self.heads * self.dims(width)[1]  # QKᵀ and PV

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
        options = {
            "causal": self.causal, "window": self.window, "pattern": self.pattern, "bias": self.position.bias(self.heads, head_dim),
            "scale": head_dim**-0.5 if self.scale is None else self.scale, "soft_cap": self.soft_cap, "implementation": self.implementation,
            "return_lse": True,
        }  # fmt: skip
        if state is None:
            o_bthk, lse_bth = kernels.attention(
                q_bthk, k_btgk, v_btgk, q_segments_bt=segment_ids, k_segments_bs=segment_ids, q_positions_bt=positions, k_positions_bs=positions, **options
            )
        else:
            segment_ids = state.segments(segment_ids, x_btd)
            state, (o_bthk, lse_bth) = state.attend(q_bthk, k_btgk, v_btgk, segment_ids, positions, options)
        if self.sinks:
            sink_h = parameter(self, "sink", Fill(0.0), (self.heads,), ("heads",))
            o_bthk = o_bthk * jax.nn.sigmoid(lse_bth - sink_h)[..., None].astype(o_bthk.dtype)
        y_btd = Linear(x_btd.shape[-1], ("heads", "width"), self.output_bias, self.output_init, name="output")(
            rearrange(o_bthk, "b t h k -> b t (h k)")
        )
        return y_btd, state
