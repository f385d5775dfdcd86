"""Gated linear attention: every channel of the key decides how fast it is forgotten."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm import kernels
from effllm.nn.init import FanIn, Initializer
from effllm.nn.linear import Linear
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.norm import Norm, RMSNorm
from effllm.nn.rebuild import adopt
from effllm.nn.recurrent import Project, RecurrentState, documents, head_width, linear_attention_flops, tails
from effllm.nn.short_conv import ShortConv


class GatedLinearAttention(Mixer):
    """S_t = diag(α_t) S_{t−1} + k_t v_tᵀ, o_t = S_tᵀ q_t/√K, α_t = sigmoid(W₂W₁x_t + b)^(1/τ), y = W_o(silu(W_g x) ⊙ norm(o)) (Yang et al. 2023,
    arXiv 2312.06635).

    Values have head_dim V = width / heads channels, keys K = V / 2. The gate passes through `rank` channels; τ is `temperature`: large, so that
    gates start near 1. `norm` acts on each head.

    Training O(T·H·(C·(K + V) + K·V)) time by chunks of C tokens; decoding state H·K·V numbers.
    Raises ValueError where heads do not divide the width, for an odd head_dim, a rank below 1, and a temperature that is not above 0.
    """

    heads: int = 4
    head_dim: int | None = None
    rank: int = 16
    temperature: float = 16.0
    norm: Norm = RMSNorm()
    conv: ShortConv | None = None
    output_init: Initializer = FanIn()
    chunk: int | None = None
    implementation: str | None = None

    def dims(self, width: int) -> tuple[int, int]:
        """(K, V) at this width."""
        value = head_width(self, width)
        at_least(self, 1, "rank")
        if value % 2:
            raise ValueError(f"GatedLinearAttention: head_dim={value} must be even, keys have half the values' channels")
        if self.temperature <= 0:
            raise ValueError(f"GatedLinearAttention: temperature={self.temperature} must be above 0, or memories would grow")
        return value // 2, value

    def init_state(self, batch, length, width, dtype):
        key, value = self.dims(width)
        sums = jnp.zeros((batch, self.heads, key, value), jnp.promote_types(dtype, jnp.float32))
        widths = {"q": self.heads * key, "k": self.heads * key, "v": self.heads * value}
        return RecurrentState.empty(batch, sums, tails(self.conv, batch, dtype, **widths))

    def flops(self, length, width):
        key, value = self.dims(width)
        conv = 0.0 if self.conv is None else 2 * self.conv.flops(self.heads * value)
        return conv + linear_attention_flops(length, self.chunk, self.heads, key, value)

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, found = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2])
        key, value = self.dims(width)
        project = Project(self, x_btd, found, state, self.conv)
        q_bthk, k_bthk, v_bthv = project("q", self.heads, key), project("k", self.heads, key), project("v", self.heads, value)
        low_btr = Linear(self.rank, ("width", None), name="decay_down")(x_btd)
        decay_btf = Linear(self.heads * key, (None, "heads"), bias=True, name="decay_up")(low_btr)
        decay_btf = jax.nn.log_sigmoid(decay_btf.astype(jnp.promote_types(x_btd.dtype, jnp.float32))) / self.temperature
        o_bthv, sums = kernels.linear_attention(
            q_bthk * key**-0.5, k_bthk, v_bthv, rearrange(decay_btf, "b t (h k) -> b t h k", h=self.heads),
            state_bhkv=None if state is None else state.memory,
            reset_bt=found.reset_bt, real_bt=found.real_bt, chunk=self.chunk, implementation=self.implementation,
        )  # fmt: skip
        o_bthv = adopt(self, self.norm, "head_norm")(o_bthv) * jax.nn.silu(project("gate", self.heads, value, conv=False))
        y_btd = Linear(width, ("heads", "width"), init=self.output_init, name="output")(rearrange(o_bthv, "b t h v -> b t (h v)"))
        return y_btd, None if state is None else RecurrentState(sums, project.tails, found.last_b)
