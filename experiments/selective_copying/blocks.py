"""What a block is made of, apart: three inner layers, inner(x_btd, documents) -> y_btd, and three gates around any of them. For training: they keep no state."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from effllm import nn, ops
from effllm.nn.hyena import ImplicitFilter
from effllm.nn.init import Fill
from effllm.nn.linear import Linear, parameter
from effllm.nn.mamba import StepBias
from effllm.nn.rebuild import adopt
from effllm.nn.recurrent import Documents, documents
from effllm.nn.spectrum import HiPPO
from effllm.nn.state_space import DiagonalSSM, Rows


class S4(linen.Module):
    """The time-invariant state space of nn.H3: diagonal, HiPPO start."""

    states: int = 32

    @linen.compact
    def __call__(self, x_btd: jax.Array, now: Documents) -> jax.Array:
        return DiagonalSSM(self.states, HiPPO(), (0.001, 0.1), name="ssm")(x_btd, now)[0]


class LongConvolution(linen.Module):
    """h ∗ x + b ⊙ x with the filter h of nn.Hyena, which fades over `length` tokens."""

    length: int

    @linen.compact
    def __call__(self, x_btd: jax.Array, now: Documents) -> jax.Array:
        filter_ld = ImplicitFilter(x_btd.shape[-1], self.length, 64, 16, 1.0, name="filter_0")(x_btd.shape[1])
        y_btd, _ = ops.long_conv(x_btd, filter_ld, None, real_bt=now.real_bt, reset_bt=now.reset_bt)
        return y_btd + parameter(self, "bias_0", Fill(1.0), x_btd.shape[-1:], ("hidden",)) * x_btd


class S6(linen.Module):
    """The selective state space of nn.Mamba: step, B and C depend on the token."""

    states: int = 16

    @linen.compact
    def __call__(self, x_btd: jax.Array, now: Documents) -> jax.Array:
        width = x_btd.shape[-1]

        def small(name, size):
            return Linear(size, ("hidden", None), name=name)(x_btd)

        step_btd = Linear(width, (None, "hidden"), name="step")(small("step_rank", math.ceil(width / 32)))
        step_btd = jax.nn.softplus(step_btd + parameter(self, "step_bias", StepBias(0.001, 0.1), (width,), ("hidden",)))
        a_log_dn = parameter(self, "a_log", Rows(tuple(math.log(n + 1) for n in range(self.states))), (width, self.states), ("hidden", None))
        y_btd, _ = ops.selective_scan(
            x_btd, step_btd, -jnp.exp(a_log_dn), small("b", self.states), small("c", self.states), real_bt=now.real_bt, reset_bt=now.reset_bt
        )
        return y_btd + parameter(self, "skip", Fill(1.0), (width,), ("hidden",)) * x_btd


class NoGate(nn.Mixer):
    """W_o gelu(inner(x)): nn.S4's place for its state space."""

    inner: linen.Module

    @linen.compact
    def __call__(self, x_btd: jax.Array, *, positions: jax.Array, segment_ids: jax.Array | None, state: Any = None):
        y_btd = adopt(self, self.inner, "layer")(x_btd, documents(segment_ids, None))
        return Linear(x_btd.shape[-1], ("hidden", "width"), name="output")(nn.gelu(y_btd)), None


class H3Gate(nn.Mixer):
    """W_o(q ⊙ inner(shift(k) ⊙ v)): the block of nn.H3."""

    inner: linen.Module

    @linen.compact
    def __call__(self, x_btd: jax.Array, *, positions: jax.Array, segment_ids: jax.Array | None, state: Any = None):
        width, now = x_btd.shape[-1], documents(segment_ids, None)
        q_btd, k_btd, v_btd = (Linear(width, ("width", "hidden"), name=name)(x_btd) for name in "qkv")
        k_btd, _ = nn.ShortConv(4, None, axis="hidden", name="shift")(k_btd, now.segments_bt)
        y_btd = adopt(self, self.inner, "layer")(k_btd * v_btd, now)
        return Linear(width, ("hidden", "width"), name="output")(q_btd * y_btd), None


class MambaGate(nn.Mixer):
    """W_o(inner(silu(conv(W_x x))) ⊙ silu(W_z x)) with twice the width between: the block of nn.Mamba."""

    inner: linen.Module

    @linen.compact
    def __call__(self, x_btd: jax.Array, *, positions: jax.Array, segment_ids: jax.Array | None, state: Any = None):
        width, now = x_btd.shape[-1], documents(segment_ids, None)
        u_btf, z_btf = (Linear(2 * width, ("width", "hidden"), name=name)(x_btd) for name in ("input", "gate"))
        u_btf, _ = nn.ShortConv(4, linen.silu, bias=True, axis="hidden", name="conv")(u_btf, now.segments_bt)
        y_btf = adopt(self, self.inner, "layer")(u_btf, now)
        return Linear(width, ("hidden", "width"), name="output")(y_btf * linen.silu(z_btf)), None
