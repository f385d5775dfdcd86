"""The gated linear recurrent unit of Griffin and Hawk."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm import kernels
from effllm.nn.init import Fill, FanIn, Initializer
from effllm.nn.linear import Linear, parameter
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.recurrent import RecurrentState, begins, documents
from effllm.nn.short_conv import ShortConv
from effllm.ops.broadcast import to_last_axes
from effllm.shard import shard

SHARPNESS, STEEPEST = 8.0, 1000.0


@dataclass(frozen=True)
class DecayLogits:
    """Λ with softplus(Λ) = −log(a)/8 for a² uniform between least² and most²."""

    least: float
    most: float

    def __call__(self, key, shape, dtype=jnp.float32):
        a = jnp.sqrt(jax.random.uniform(key, shape, dtype, self.least**2, self.most**2))
        return jnp.log(jnp.expm1(-jnp.log(a) / SHARPNESS))


@jax.custom_jvp
def bounded_root(x: jax.Array) -> jax.Array:
    """√x, whose derivative is taken as 1,000 where it is more."""
    return jnp.sqrt(x)


@bounded_root.defjvp
def _(primals, tangents):
    (x,), (change,) = primals, tangents
    return jnp.sqrt(x), change * jax.lax.rsqrt(jnp.maximum(4 * x, STEEPEST**-2))


class RGLRU(Mixer):
    """Griffin's recurrent block: W_o(gelu(W_y x) ⊙ h), h from u = conv(W_x x) by the RG-LRU (De et al. 2024, arXiv 2402.19427):

    r = σ(A u + b_a), i = σ(I u + b_i), a = exp(−8 r softplus(Λ)), h_t = a_t ⊙ h_{t−1} + √(1 − a_t²) ⊙ (i_t ⊙ u_t).

    A and I are block-diagonal in `heads` blocks; the first token of a document enters with factor 1. Decays start in `decay`, the recurrence runs in at
    least float32. The slope of the root is held at 1,000 or below, as the authors do. `hidden=None` is the width.

    Training O(T·(D·F + F²/heads)) time, O(T·F) memory; decoding state F numbers and a tail of (taps − 1)·F. Raises ValueError where heads do not
    divide the hidden width and for decays outside 0 < least ≤ most < 1.
    """

    hidden: int | None = None
    heads: int = 4
    taps: int = 4
    activation: Callable = nn.gelu
    bias: bool = True
    decay: tuple[float, float] = (0.9, 0.999)
    output_init: Initializer = FanIn()
    implementation: str | None = None

    def width_for(self, width: int) -> int:
        """The width of the recurrence at this model width."""
        at_least(self, 1, "heads", "hidden")
        hidden = width if self.hidden is None else self.hidden
        if hidden % self.heads:
            raise ValueError(f"RGLRU: hidden={hidden} is not a multiple of heads={self.heads}; change one of them")
        if not 0 < self.decay[0] <= self.decay[1] < 1:
            raise ValueError(f"RGLRU: decay={self.decay} must be (least, most) with 0 < least ≤ most < 1: beyond them the memory is none, or grows")
        return hidden

    def conv(self):
        return ShortConv(self.taps, None, bias=True, axis="hidden", parent=None)

    def init_state(self, batch, length, width, dtype):
        hidden = self.width_for(width)
        memory = jnp.zeros((batch, hidden), jnp.promote_types(dtype, jnp.float32))
        return RecurrentState.empty(batch, memory, self.conv().init_tail(batch, hidden, dtype))

    def flops(self, length, width):
        hidden = self.width_for(width)
        return 4.0 * hidden * hidden / self.heads + self.conv().flops(hidden) + 15.0 * hidden  # both gates, the convolution, the recurrence

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        hidden = self.width_for(x_btd.shape[-1])
        now = documents(segment_ids, state, x_btd.shape[:2])

        def project(name):
            return shard(Linear(hidden, ("width", "hidden"), self.bias, name=name)(x_btd), "batch", "length", "hidden")

        def gate(name, u_bthk):
            block_hkk = parameter(self, f"{name}_gate", FanIn(), (self.heads, *u_bthk.shape[-1:] * 2), ("heads", None, None))
            bias_hk = parameter(self, f"{name}_bias", Fill(0.0), u_bthk.shape[2:], ("heads", None))
            z_bthk = jnp.einsum("bthk,hkl->bthl", u_bthk, block_hkk.astype(u_bthk.dtype)).astype(wide) + bias_hk
            return rearrange(jax.nn.sigmoid(z_bthk), "b t h k -> b t (h k)")

        gate_btf = self.activation(project("gate"))
        u_btf, tail = self.conv().clone(parent=self, name="conv")(project("input"), now.segments_bt, None if state is None else state.tails)
        wide = jnp.promote_types(u_btf.dtype, jnp.float32)
        u_bthk = rearrange(u_btf, "b t (h k) -> b t h k", h=self.heads)
        r_btf, i_btf = gate("recurrence", u_bthk), gate("input", u_bthk)
        slope_f = jax.nn.softplus(parameter(self, "decay_logits", DecayLogits(*self.decay), (hidden,), ("hidden",)))
        log_a_btf = -SHARPNESS * r_btf * to_last_axes(slope_f, r_btf.shape)
        entering_btf = jnp.where(begins(now, state, x_btd.shape[:2])[..., None], 1, bounded_root(-jnp.expm1(2 * log_a_btf)))
        h_btf, last_bf = kernels.linear_recurrence(
            jnp.exp(log_a_btf), entering_btf * i_btf * u_btf, None if state is None else state.memory,
            real_bt=now.real_bt, reset_bt=now.reset_bt, implementation=self.implementation,
        )  # fmt: skip
        y_btd = Linear(x_btd.shape[-1], ("hidden", "width"), self.bias, self.output_init, name="output")(h_btf.astype(x_btd.dtype) * gate_btf)
        return y_btd, None if state is None else RecurrentState(last_bf, tail, now.last_b)
