"""Mamba: a state space whose step, input and output matrices depend on the token."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import kernels, ops
from effllm.nn.init import Fill, FanIn, Initializer
from effllm.nn.linear import Linear, parameter
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.recurrent import RecurrentState, documents
from effllm.nn.short_conv import ShortConv
from effllm.nn.state_space import LogStep, Rows, check_states
from effllm.ops.broadcast import to_last_axes
from effllm.shard import shard


@dataclass(frozen=True)
class StepBias:
    """softplus⁻¹ of steps whose log is uniform between log(least) and log(most)."""

    least: float
    most: float

    def __call__(self, key, shape, dtype=jnp.float32):
        return jnp.log(jnp.expm1(jnp.exp(LogStep(self.least, self.most)(key, shape, dtype))))


class Mamba(Mixer):
    """W_o(y ⊙ silu(W_z x)) with u = silu(conv(W_x x)) of F = expand·D channels and the selective state space (S6, Gu & Dao 2023, arXiv 2312.00752)

    h_t = exp(Δ_t A) ⊙ h_{t−1} + Δ_t B_t u_t, y_t = C_t h_t + D ⊙ u_t; A = −exp(A_log) (F, N), Δ = softplus(W_Δ W_r u + b), B = W_B u, C = W_C u.

    `rank=None` of Δ is D/16. `inner_eps` divides Δ's input, B and C by their root mean square, as Falcon Mamba does (arXiv 2410.05355). Steps start in `step`, A
    at −1 … −N. The recurrence runs in at least float32, in chunks: states of all tokens never exist.

    Training O(T·F·(D + N)) time, O(T·F) memory; decoding state F·N numbers and a tail of (taps − 1)·F. Raises ValueError for states, expand or
    rank below 1 and a step that is not positive.
    """

    states: int = 16
    expand: int = 2
    taps: int = 4
    rank: int | None = None
    inner_eps: float | None = None
    bias: bool = False
    conv_bias: bool = True
    step: tuple[float, float] = (0.001, 0.1)
    output_init: Initializer = FanIn()
    implementation: str | None = None
    variants = ({"states": 4, "inner_eps": 1e-6, "bias": True},)

    def rank_for(self, width: int) -> int:
        """The rank of Δ at this width."""
        return math.ceil(width / 16) if self.rank is None else self.rank

    def conv(self):
        check_states(self)
        at_least(self, 1, "expand", "rank")
        return ShortConv(self.taps, nn.silu, bias=self.conv_bias, axis="hidden", parent=None)

    def init_state(self, batch, length, width, dtype):
        memory = jnp.zeros((batch, self.expand * width, self.states), jnp.promote_types(dtype, jnp.float32))
        return RecurrentState.empty(batch, memory, self.conv().init_tail(batch, self.expand * width, dtype))

    def flops(self, length, width):
        hidden = self.expand * width
        return self.conv().flops(hidden) + hidden * (9.0 * self.states + 4)

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, now = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2])
        hidden, rank = self.expand * width, self.rank_for(width)

        def project(name):
            return shard(Linear(hidden, ("width", "hidden"), self.bias, name=name)(x_btd), "batch", "length", "hidden")

        def small(name, size):
            v = Linear(size, ("hidden", None), name=name)(u_btf)
            return v if self.inner_eps is None else ops.rms_norm(v, jnp.ones((size,), v.dtype), self.inner_eps)

        u_btf, z_btf = project("input"), project("gate")
        u_btf, tail = self.conv().clone(parent=self, name="conv")(u_btf, now.segments_bt, None if state is None else state.tails)
        wide = jnp.promote_types(u_btf.dtype, jnp.float32)
        step_btf = Linear(hidden, (None, "hidden"), name="step")(small("step_rank", rank)).astype(wide)
        step_btf = jax.nn.softplus(step_btf + parameter(self, "step_bias", StepBias(*self.step), (hidden,), ("hidden",)))
        a_log_fn = parameter(self, "a_log", Rows(tuple(math.log(n + 1) for n in range(self.states))), (hidden, self.states), ("hidden", None))
        y_btf, last_bfn = kernels.selective_scan(
            u_btf, step_btf, -jnp.exp(a_log_fn), small("b", self.states), small("c", self.states), None if state is None else state.memory,
            real_bt=now.real_bt, reset_bt=now.reset_bt, implementation=self.implementation,
        )  # fmt: skip
        skip_f = parameter(self, "skip", Fill(1.0), (hidden,), ("hidden",))
        y_btf = (y_btf + to_last_axes(skip_f, u_btf.shape) * u_btf).astype(x_btd.dtype) * nn.silu(z_btf)
        y_btd = Linear(width, ("hidden", "width"), self.bias, self.output_init, name="output")(y_btf)
        return y_btd, None if state is None else RecurrentState(last_bfn, tail, now.last_b)
