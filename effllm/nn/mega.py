"""Mega: a moving average of several speeds, then gated attention with one head."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.cache import KVCache, RingCache
from effllm.nn.init import Fill, FanIn, Initializer, Normal
from effllm.nn.linear import Linear, parameter
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.position import Position, RoPE
from effllm.nn.recurrent import RecurrentState, documents
from effllm.ops.broadcast import to_last_axes
from effllm.ops.pattern import BlockLocal
from effllm.shard import shard


@dataclass(frozen=True)
class Alternating:
    """1, −1, 1, … along the last axis, plus N(0, stddev²): the authors' start of β."""

    stddev: float

    def __call__(self, key, shape, dtype=jnp.float32):
        return 1 - 2 * (jnp.arange(shape[-1]) % 2).astype(dtype) + self.stddev * jax.random.normal(key, shape, dtype)


class Mega(Mixer):
    """φ ⊙ (silu(W_h m + U_h(γ ⊙ O)) − x) over the moving average m = silu(EMA(x) + ω ⊙ x) (Ma et al. 2022, arXiv 2209.10655).

    The paper's layer is φ ⊙ silu(…) + (1 − φ) ⊙ x, a residual connection itself; a block adds x, so that PostNormBlock(Mega()) is the paper's layer
    exactly. In a pre-norm Block the x that is taken out is the normalised one, and the one that stays is not.

    EMA has `states` N numbers for each channel: h_t = α ⊙ β x_t + (1 − α ⊙ δ) ⊙ h_{t−1}, η · h_t, α and δ in (0, 1). φ = σ(W_φ m), γ = silu(W_γ m),
    O = softmax(q kᵀ/√K) v with v = silu(W_v x) of `hidden` F channels (None: twice the width), q and k scalings and shifts of z = silu(W_z m) of `key_dim` K.
    With a `chunk` C a token sees its own C positions of the document only (Mega-chunk), which makes attention linear in T.

    Training O(T·D·(F + 64 + N) + T²·(K + F)), with chunks T·C for T²; decoding state D·N numbers and K + F for each of T tokens, or of C. A row
    written beyond its state's length gives NaN. Raises ValueError for a chunk, states, key_dim or hidden below 1.
    """

    states: int = 16
    key_dim: int = 64
    hidden: int | None = None
    chunk: int | None = None
    position: Position = RoPE()
    output_init: Initializer = FanIn()
    implementation: str | None = None
    variants = ({"chunk": 4, "key_dim": 8},)

    def width_for(self, width: int) -> int:
        """The width of the values at this model width."""
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"Mega: chunk={self.chunk} must be at least 1, where a token sees itself alone; None sees all")
        at_least(self, 1, "states", "key_dim", "hidden")
        return 2 * width if self.hidden is None else self.hidden

    def init_state(self, batch, length, width, dtype):
        dims = 1, self.position.key_dim(self.key_dim), self.width_for(width), dtype
        whole = self.chunk is None
        cache = KVCache.empty(batch, length, *dims) if whole else RingCache.empty(batch, min(length, self.chunk), *dims, window=self.chunk, first=0)
        return RecurrentState.empty(batch, jnp.zeros((batch, width, self.states), jnp.promote_types(dtype, jnp.float32)), cache)

    def flops(self, length, width):
        seen = (length if self.chunk is None else min(self.chunk, length)) / 2
        return width * (min(length, 64) + 4.0 * self.states) + 2.0 * seen * (self.key_dim + self.width_for(width))

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, hidden = x_btd.shape[-1], self.width_for(x_btd.shape[-1])
        now = documents(segment_ids, state, x_btd.shape[:2])
        shape, axes = (width, self.states), (None, None)
        alpha_dn, delta_dn = (jax.nn.sigmoid(parameter(self, n, Normal(0.2), shape, axes)) for n in ("alpha", "delta"))
        beta_dn, eta_dn = parameter(self, "beta", Alternating(0.02), shape, axes), parameter(self, "eta", Normal(1.0), shape, axes)
        m_btd, average_bdn = ops.ssm(
            x_btd, 1 - alpha_dn * delta_dn, alpha_dn * beta_dn, eta_dn * self.states**-0.5, None if state is None else state.memory,
            real_bt=now.real_bt, reset_bt=now.reset_bt,
        )  # fmt: skip
        m_btd = nn.silu(m_btd + to_last_axes(parameter(self, "omega", Normal(1.0), (width,), (None,)), x_btd.shape) * x_btd).astype(x_btd.dtype)

        def project(name, x, size, axis):
            return shard(Linear(size, ("width", axis), True, name=name)(x), "batch", "length", axis)

        z_bt1k = nn.silu(project("shared", m_btd, self.key_dim, None))[:, :, None]

        def turned(name):
            scale_k, shift_k = (parameter(self, f"{name}_{what}", init, (self.key_dim,), (None,)) for what, init in (("scale", Fill(1.0)), ("shift", Fill(0.0))))
            return z_bt1k * to_last_axes(scale_k.astype(x_btd.dtype), z_bt1k.shape) + shift_k.astype(x_btd.dtype)

        q_bt1k, k_bt1k = self.position.rotate(turned("q"), turned("k"), positions)
        v_bt1f = nn.silu(project("v", x_btd, hidden, "hidden"))[:, :, None]
        pattern = None if self.chunk is None else BlockLocal(self.chunk)
        options = {"pattern": pattern, "bias": self.position.bias(1, self.key_dim), "scale": self.key_dim**-0.5, "implementation": self.implementation}
        cache = None
        if state is None:
            o_bt1f = ops.attention(
                q_bt1k, k_bt1k, v_bt1f, q_segments_bt=segment_ids, k_segments_bs=segment_ids, q_positions_bt=positions, k_positions_bs=positions, **options
            )
        else:
            segments_bt = state.tails.segments(segment_ids, x_btd)
            cache, seen = state.tails.extend(k_bt1k, v_bt1f, segments_bt, positions)
            o_bt1f = ops.attention(
                q_bt1k, seen.k_bsgk.astype(x_btd.dtype), seen.v_bsgk.astype(x_btd.dtype), q_order_bt=seen.q_order_bt, k_order_bs=seen.k_order_bs,
                q_segments_bt=segments_bt, k_segments_bs=seen.k_segments_bs, q_positions_bt=positions, k_positions_bs=seen.k_positions_bs, **options,
            )  # fmt: skip
            o_bt1f = jnp.where(seen.lost_bt[..., None, None], jnp.nan, o_bt1f)
        gated_btf = nn.silu(project("reset", m_btd, hidden, "hidden")) * o_bt1f[:, :, 0]
        update_btd = jax.nn.sigmoid(project("update", m_btd, width, None))
        new_btd = Linear(width, ("hidden", "width"), False, self.output_init, name="output")(gated_btf)
        y_btd = update_btd * (nn.silu(project("candidate", m_btd, width, None) + new_btd) - x_btd)
        return y_btd, None if state is None else RecurrentState(average_bdn, cache, now.last_b)
