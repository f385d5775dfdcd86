"""DeltaNet and Gated DeltaNet: mixers that correct what a key held before they write, with and without forgetting."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm import kernels
from effllm.nn.decay_init import LogUniform, SoftplusOf
from effllm.nn.init import FanIn, Initializer
from effllm.nn.linear import Linear, parameter
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.norm import Norm, RMSNorm
from effllm.nn.rebuild import adopt
from effllm.nn.recurrent import Project, RecurrentState, delta_rule_flops, documents, head_width, tails
from effllm.nn.short_conv import ShortConv
from effllm.ops.norm import unit


class DeltaNet(Mixer):
    """S_t = (I − β_t k_t k_tᵀ) S_{t−1} + β_t k_t v_tᵀ, o_t = S_tᵀ q_t/√K, with unit q and k behind a short convolution, β = sigmoid(W x) (Schlag et
    al. 2021, arXiv 2102.11174; Yang et al. 2024, arXiv 2406.06484). `norm` acts on each head's output.

    With `negative` β reaches 2, so that eigenvalues may be negative and states be tracked (Grazzi et al. 2024, arXiv 2411.12537).

    Training O(T·H·(C·K + C² + K²)) time by chunks of C tokens; decoding state H·K² numbers and 3·(W − 1)·H·K of the convolutions.
    Raises ValueError where heads do not divide the width.
    """

    heads: int = 4
    head_dim: int | None = None
    negative: bool = False
    norm: Norm = RMSNorm()
    conv: ShortConv | None = ShortConv()
    output_init: Initializer = FanIn()
    chunk: int | None = None
    implementation: str | None = None

    def init_state(self, batch, length, width, dtype):
        dim = head_width(self, width)
        memory = jnp.zeros((batch, self.heads, dim, dim), jnp.promote_types(dtype, jnp.float32))
        return RecurrentState.empty(batch, memory, tails(self.conv, batch, dtype, **dict.fromkeys("qkv", self.heads * dim)))

    def flops(self, length, width):
        dim = head_width(self, width)
        conv = 0.0 if self.conv is None else 3 * self.conv.flops(self.heads * dim)
        return conv + delta_rule_flops(length, self.chunk, self.heads, dim, dim)

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        dim, found = head_width(self, x_btd.shape[-1]), documents(segment_ids, state, x_btd.shape[:2])
        project = Project(self, x_btd, found, state, self.conv)
        q_bthk, k_bthk, v_bthv = (project(name, self.heads, dim) for name in "qkv")
        beta_bth = jax.nn.sigmoid(Linear(self.heads, ("width", "heads"), name="beta")(x_btd).astype(jnp.promote_types(x_btd.dtype, jnp.float32)))
        o_bthv, memory = kernels.delta_rule(
            unit(q_bthk) * dim**-0.5, unit(k_bthk), v_bthv, 2 * beta_bth if self.negative else beta_bth,
            state_bhkv=None if state is None else state.memory,
            reset_bt=found.reset_bt, real_bt=found.real_bt, chunk=self.chunk, implementation=self.implementation,
        )  # fmt: skip
        o_bthv = adopt(self, self.norm, "head_norm")(o_bthv)
        y_btd = Linear(x_btd.shape[-1], ("heads", "width"), init=self.output_init, name="output")(rearrange(o_bthv, "b t h v -> b t (h v)"))
        return y_btd, None if state is None else RecurrentState(memory, project.tails, found.last_b)


class GatedDeltaNet(Mixer):
    """S_t = α_t (I − β_t k_t k_tᵀ) S_{t−1} + β_t k_t v_tᵀ, o_t = S_tᵀ q_t/√K, y = W_o(norm(o) ⊙ silu(W_g x)) (Yang et al. 2024, arXiv 2412.06464).

    log α = −A·softplus(W_a x + b) a head, β = sigmoid(W_b x); q and k are unit vectors behind a short convolution. `heads` counts values' heads;
    `key_heads=None` is as many, a divisor shares keys and queries among neighbours (as in Qwen3-Next). head_dim=None is width / heads,
    `expand` times that are the values' channels. `norm` acts on each head.

    Training O(T·H·(C·(K + V) + C² + K·V)) time by chunks of C tokens; decoding state H·K·V numbers and (W − 1)·(2·G·K + H·V) of the convolutions.
    Raises ValueError where heads do not divide the width, or key_heads the heads.
    """

    heads: int = 4
    key_heads: int | None = None
    head_dim: int | None = None
    expand: int = 1
    norm: Norm = RMSNorm()
    conv: ShortConv | None = ShortConv()
    output_init: Initializer = FanIn()
    chunk: int | None = None
    implementation: str | None = None
    variants: ClassVar = ({"key_heads": 2, "expand": 2},)

    def dims(self, width: int) -> tuple[int, int, int]:
        """(key heads, K, V) at this width."""
        at_least(self, 1, "key_heads", "expand")
        key, key_heads = head_width(self, width), self.heads if self.key_heads is None else self.key_heads
        if self.heads % key_heads:
            raise ValueError(f"GatedDeltaNet: heads={self.heads} is not a multiple of key_heads={key_heads}")
        return key_heads, key, self.expand * key

    def widths(self, width: int) -> dict[str, int]:
        """Channels of the convolved projections."""
        key_heads, key, value = self.dims(width)
        return {"q": key_heads * key, "k": key_heads * key, "v": self.heads * value}

    def init_state(self, batch, length, width, dtype):
        _, key, value = self.dims(width)
        memory = jnp.zeros((batch, self.heads, key, value), jnp.promote_types(dtype, jnp.float32))
        return RecurrentState.empty(batch, memory, tails(self.conv, batch, dtype, **self.widths(width)))

    def flops(self, length, width):
        _, key, value = self.dims(width)
        conv = 0.0 if self.conv is None else self.conv.flops(sum(self.widths(width).values()))
        return conv + delta_rule_flops(length, self.chunk, self.heads, key, value)

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, found = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2])
        (key_heads, key, value), wide = self.dims(width), jnp.promote_types(x_btd.dtype, jnp.float32)
        project = Project(self, x_btd, found, state, self.conv)
        q_btgk, k_btgk, v_bthv = project("q", key_heads, key, shared=True), project("k", key_heads, key, shared=True), project("v", self.heads, value)
        q_bthk, k_bthk = (jnp.repeat(unit(x), self.heads // key_heads, axis=2) for x in (q_btgk, k_btgk))
        log_a_h = parameter(self, "log_a", LogUniform(1.0, 16.0), (self.heads,), ("heads",))
        step_h = parameter(self, "step_bias", SoftplusOf(0.001, 0.1), (self.heads,), ("heads",))
        a_bth, b_bth = (Linear(self.heads, ("width", "heads"), name=name)(x_btd).astype(wide) for name in ("decay", "beta"))
        o_bthv, memory = kernels.delta_rule(
            q_bthk * key**-0.5, k_bthk, v_bthv, jax.nn.sigmoid(b_bth), -jnp.exp(log_a_h) * jax.nn.softplus(a_bth + step_h),
            state_bhkv=None if state is None else state.memory,
            reset_bt=found.reset_bt, real_bt=found.real_bt, chunk=self.chunk, implementation=self.implementation,
        )  # fmt: skip
        o_bthv = adopt(self, self.norm, "head_norm")(o_bthv) * jax.nn.silu(project("gate", self.heads, value, conv=False))
        y_btd = Linear(width, ("heads", "width"), init=self.output_init, name="output")(rearrange(o_bthv, "b t h v -> b t (h v)"))
        return y_btd, None if state is None else RecurrentState(memory, project.tails, found.last_b)
