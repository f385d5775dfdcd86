"""Mamba-2: a state-space model whose transition is one number a head, which makes it linear attention with decay."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm import kernels
from effllm.nn.decay_init import LogUniform, SoftplusOf
from effllm.nn.init import Fill, FanIn, Initializer
from effllm.nn.linear import Linear, parameter
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.norm import Norm, RMSNorm
from effllm.nn.rebuild import adopt
from effllm.nn.recurrent import Project, RecurrentState, documents, linear_attention_flops, tails
from effllm.nn.short_conv import ShortConv
from effllm.ops.broadcast import to_first_axes, to_last_axes


class Mamba2(Mixer):
    """h_t = e^(−A·Δ_t) h_{t−1} + Δ_t B_t x_tᵀ, y_t = h_tᵀ C_t + D x_t, out = W_o norm(y ⊙ silu(z)), Δ_t = softplus(W_Δ u_t + b) a head (Dao & Gu 2024,
    arXiv 2405.21060).

    x, B and C are projections of u behind a short convolution; x has `expand`·width channels in `heads` heads of P, B and C have N = `state`
    channels in `groups` that neighbouring heads share. `norm` acts on all channels.

    Training O(T·H·(C·(N + P) + N·P)) time by chunks of C tokens; decoding state H·N·P numbers and (W − 1)·(H·P + 2·G·N) of the convolutions.
    Raises ValueError where heads do not divide the channels, or groups the heads.
    """

    heads: int = 4
    expand: int = 2
    state: int = 64
    groups: int = 1
    norm: Norm = RMSNorm(1e-5)
    conv: ShortConv | None = ShortConv(bias=True)
    output_init: Initializer = FanIn()
    chunk: int | None = None
    implementation: str | None = None
    variants: ClassVar = ({"state": 8, "groups": 2},)

    def head_dim(self, width: int) -> int:
        """The channels P of a head at this width."""
        at_least(self, 1, "heads", "expand", "state", "groups")
        if self.expand * width % self.heads:
            raise ValueError(f"Mamba2: {self.expand * width} channels (expand × width) are not a multiple of heads={self.heads}")
        if self.heads % self.groups:
            raise ValueError(f"Mamba2: heads={self.heads} is not a multiple of groups={self.groups}")
        return self.expand * width // self.heads

    def widths(self, width: int) -> dict[str, int]:
        """Channels of the convolved projections."""
        return {"x": self.heads * self.head_dim(width), "b": self.groups * self.state, "c": self.groups * self.state}

    def init_state(self, batch, length, width, dtype):
        memory = jnp.zeros((batch, self.heads, self.state, self.head_dim(width)), jnp.promote_types(dtype, jnp.float32))
        return RecurrentState.empty(batch, memory, tails(self.conv, batch, dtype, **self.widths(width)))

    def flops(self, length, width):
        conv = 0.0 if self.conv is None else self.conv.flops(sum(self.widths(width).values()))
        return conv + linear_attention_flops(length, self.chunk, self.heads, self.state, self.head_dim(width))

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, found, dim = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2]), self.head_dim(x_btd.shape[-1])
        project = Project(self, x_btd, found, state, self.conv)
        x_bthp = project("x", self.heads, dim)
        b_btgn, c_btgn = (project(name, self.groups, self.state, shared=True) for name in "bc")
        b_bthn, c_bthn = (jnp.repeat(a, self.heads // self.groups, axis=2) for a in (b_btgn, c_btgn))
        log_a_h = parameter(self, "log_a", LogUniform(1.0, 16.0), (self.heads,), ("heads",))
        bias_h = parameter(self, "step_bias", SoftplusOf(0.001, 0.1), (self.heads,), ("heads",))
        skip_h = parameter(self, "skip", Fill(1.0), (self.heads,), ("heads",))
        step_bth = Linear(self.heads, ("width", "heads"), name="step")(x_btd)
        step_bth = jax.nn.softplus(step_bth.astype(jnp.promote_types(x_btd.dtype, jnp.float32)) + bias_h)
        y_bthp, memory = kernels.linear_attention(
            c_bthn, b_bthn, (x_bthp * to_first_axes(step_bth, x_bthp.shape)).astype(x_btd.dtype), -jnp.exp(log_a_h) * step_bth,
            state_bhkv=None if state is None else state.memory,
            reset_bt=found.reset_bt, real_bt=found.real_bt, chunk=self.chunk, implementation=self.implementation,
        )  # fmt: skip
        y_bthp = y_bthp + (to_last_axes(jnp.broadcast_to(skip_h[:, None], x_bthp.shape[2:]), x_bthp.shape) * x_bthp).astype(x_btd.dtype)
        gated_bthp = y_bthp * jax.nn.silu(project("gate", self.heads, dim, conv=False))
        y_btf = adopt(self, self.norm, "output_norm")(rearrange(gated_bthp, "b t h p -> b t (h p)"))
        y_btd = Linear(width, ("heads", "width"), init=self.output_init, name="output")(y_btf)
        return y_btd, None if state is None else RecurrentState(memory, project.tails, found.last_b)
