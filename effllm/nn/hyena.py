"""Hyena: gates and long convolutions whose filters are functions of the lag."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.init import Fill, FanIn, Initializer
from effllm.nn.linear import Linear, parameter
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.recurrent import RecurrentState, documents
from effllm.nn.short_conv import ShortConv
from effllm.ops.broadcast import to_last_axes
from effllm.ops.long_conv import Past
from effllm.shard import shard


@dataclass(frozen=True)
class Decays:
    """Rates from log(100)/slowest to log(100)/fastest, evenly spaced: after so long, in units of the filter's length, a hundredth is left."""

    fastest: float
    slowest: float

    def __call__(self, key, shape, dtype=jnp.float32):
        return jnp.broadcast_to(jnp.linspace(math.log(100) / self.slowest, math.log(100) / self.fastest, shape[-1], dtype=dtype), shape)


class ImplicitFilter(nn.Module):
    """filter(taps) -> (taps, D): h_j = MLP(j)_d · exp(−|rate_d| j/L), an MLP with sines on [j/L, cos and sin of 2π f j/L for f ≤ bands] (Poli et al. 2023).

    L is the lag at which the features end their first period; taps beyond it are defined too. Computed in float32.
    """

    width: int
    length: int
    hidden: int
    bands: int
    frequency: float

    @nn.compact
    def __call__(self, taps: int) -> jax.Array:
        t_l1 = jnp.arange(taps, dtype=jnp.float32)[:, None] / self.length
        angle_lf = math.tau * t_l1 * jnp.arange(1, self.bands + 1)
        x_lf = jnp.concatenate([t_l1, jnp.cos(angle_lf), jnp.sin(angle_lf)], axis=-1)
        for i in range(2):
            x_lf = jnp.sin(self.frequency * Linear(self.hidden, (None, None), True, name=f"layer_{i}")(x_lf))
        h_ld = Linear(self.width, (None, "hidden"), name="output")(x_lf)
        return h_ld * jnp.exp(-jnp.abs(parameter(self, "rates", Decays(0.3, 1.5), (self.width,), ("hidden",))) * t_l1)


class Hyena(Mixer):
    """W_o(x₀ ⊙ z), z ← h_n ∗ (x_n ⊙ z) + b_n ⊙ x_n ⊙ z for n = order − 1 … 1 from z = v (Poli et al. 2023, arXiv 2302.10866).

    x₀ … and v are projections through a short convolution; the filters h are ImplicitFilters that fade over `length` tokens. ops.long_conv keeps causality and
    documents exactly.

    Training O(T·D·(D + log² T)) time, O(T·D) memory; decoding state (order − 1)·D numbers for each of T tokens and a tail of (taps − 1)·(order + 1)·D; each
    step costs O(T·F·(D + F + bands)) with F = `filter_hidden`, as the filters of all T taps are made anew. A row written beyond its state's length gives
    NaN. Raises ValueError for an order or taps below 2 and a length or filter_hidden below 1.
    """

    order: int = 2
    length: int = 1024
    taps: int = 3
    filter_hidden: int = 64
    bands: int = 16
    frequency: float = 1.0
    output_init: Initializer = FanIn()
    implementation: str | None = None
    variants: ClassVar = ({"order": 3, "length": 8},)

    def conv(self):
        if self.order < 2:
            raise ValueError(f"Hyena: order={self.order} has no convolution; give at least 2")
        at_least(self, 1, "length", "filter_hidden")
        at_least(self, 0, "bands")
        return ShortConv(self.taps, None, axis="hidden", parent=None)

    def init_state(self, batch, length, width, dtype):
        tail = self.conv().init_tail(batch, (self.order + 1) * width, dtype)
        return RecurrentState.empty(batch, tuple(Past.empty(batch, length, width, dtype) for _ in range(self.order - 1)), tail)

    def flops(self, length, width):
        levels = max(1.0, math.log2(max(2, length)) - 3)  # halvings of the text down to 8 tokens
        fft = 10.0 * math.log2(max(2, length))  # there and back, per channel and token of a level
        return self.conv().flops((self.order + 1) * width) + (self.order - 1) * width * (levels * fft + 20)

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, now = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2])
        u_btm = shard(Linear((self.order + 1) * width, ("width", "hidden"), name="input")(x_btd), "batch", "length", "hidden")
        u_btm, tail = self.conv().clone(parent=self, name="conv")(u_btm, now.segments_bt, None if state is None else state.tails)
        x0_btd, *gates, z_btd = jnp.split(u_btm, self.order + 1, axis=-1)
        pasts, after = (None,) * (self.order - 1) if state is None else state.memory, []
        for n, (gate_btd, past) in enumerate(zip(reversed(gates), pasts, strict=True)):
            taps = x_btd.shape[1] if past is None else past.run_bs.shape[1]
            filter_ld = ImplicitFilter(width, self.length, self.filter_hidden, self.bands, self.frequency, name=f"filter_{n}")(taps)
            bias_d = parameter(self, f"bias_{n}", Fill(1.0), (width,), ("hidden",))
            z_btd = gate_btd * z_btd
            y_btd, past = ops.long_conv(z_btd, filter_ld, past, real_bt=now.real_bt, reset_bt=now.reset_bt, implementation=self.implementation)
            z_btd = y_btd + to_last_axes(bias_d.astype(x_btd.dtype), z_btd.shape) * z_btd
            after.append(past)
        y_btd = Linear(width, ("hidden", "width"), False, self.output_init, name="output")(x0_btd * z_btd)
        return y_btd, None if state is None else RecurrentState(tuple(after), tail, now.last_b)
