"""Lightning attention: TransNormer's linear attention with a fixed decay a head, as MiniMax has it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm import kernels
from effllm.nn.init import FanIn, Initializer
from effllm.nn.linear import Linear, wide_parameter
from effllm.nn.mixer import Mixer
from effllm.nn.norm import Norm, RMSNorm
from effllm.nn.rebuild import adopt
from effllm.nn.recurrent import Project, RecurrentState, documents, head_width, linear_attention_flops, tails
from effllm.nn.short_conv import ShortConv


@dataclass(frozen=True)
class LogSlopes:
    """log of 2^(−8(h+1)/H) for head h of H: ALiBi's slopes (Press et al. 2021, arXiv 2108.12409)."""

    def __call__(self, key, shape, dtype=jnp.float32):
        return (-8 * jnp.log(2.0) * jnp.arange(1, shape[0] + 1) / shape[0]).astype(dtype)


class LightningAttention(Mixer):
    """o_t = Σ_{s≤t} e^(−λ(t−s)) (q_tᵀk_s) v_s with q, k, v = silu(W x), y = W_o(sigmoid(W_g x) ⊙ norm(o)) (Qin et al. 2024, arXiv 2401.04658;
    MiniMax-01, arXiv 2501.08313).

    λ_h = 2^(−8(h+1)/H). log λ is a parameter without gradient, since MiniMax lowers it layer by layer. `norm` acts on all heads together.

    Training O(T·H·(C·K + K²)) time by chunks of C tokens; decoding state H·K² numbers.
    Raises ValueError where heads do not divide the width.
    """

    heads: int = 4
    head_dim: int | None = None
    norm: Norm = RMSNorm()
    conv: ShortConv | None = None
    output_init: Initializer = FanIn()
    chunk: int | None = None
    implementation: str | None = None

    def init_state(self, batch, length, width, dtype):
        dim = head_width(self, width)
        sums = jnp.zeros((batch, self.heads, dim, dim), jnp.promote_types(dtype, jnp.float32))
        return RecurrentState.empty(batch, sums, tails(self.conv, batch, dtype, **dict.fromkeys("qkv", self.heads * dim)))

    def flops(self, length, width):
        dim = head_width(self, width)
        conv = 0.0 if self.conv is None else 3 * self.conv.flops(self.heads * dim)
        return conv + linear_attention_flops(length, self.chunk, self.heads, dim, dim)

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        dim, found = head_width(self, x_btd.shape[-1]), documents(segment_ids, state, x_btd.shape[:2])
        project = Project(self, x_btd, found, state, self.conv)
        q_bthk, k_bthk, v_bthv = (jax.nn.silu(project(name, self.heads, dim)) for name in "qkv")
        log_slope_h = jax.lax.stop_gradient(wide_parameter(self, "log_slope", LogSlopes(), (self.heads,), ("heads",)))
        o_bthv, sums = kernels.linear_attention(
            q_bthk, k_bthk, v_bthv, -jnp.exp(log_slope_h), state_bhkv=None if state is None else state.memory,
            reset_bt=found.reset_bt, real_bt=found.real_bt, chunk=self.chunk, implementation=self.implementation,
        )  # fmt: skip
        gate_btf = rearrange(jax.nn.sigmoid(project("gate", self.heads, dim, conv=False)), "b t h v -> b t (h v)")
        o_btf = adopt(self, self.norm, "output_norm")(rearrange(o_bthv, "b t h v -> b t (h v)")) * gate_btf
        y_btd = Linear(x_btd.shape[-1], ("heads", "width"), init=self.output_init, name="output")(o_btf)
        return y_btd, None if state is None else RecurrentState(sums, project.tails, found.last_b)
