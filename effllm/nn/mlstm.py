"""The mLSTM of xLSTM: linear attention whose gates are exponentials, kept in range by a running maximum and a normaliser."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm import kernels
from effllm.nn.decay_init import Even
from effllm.nn.init import Fill, FanIn, Initializer
from effllm.nn.linear import Linear, parameter
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.norm import EachHeadLayerNorm, Norm
from effllm.nn.rebuild import adopt
from effllm.nn.recurrent import Project, RecurrentState, documents, head_width, linear_attention_flops, tails
from effllm.nn.short_conv import ShortConv
from effllm.ops.broadcast import to_first_axes

NOTHING = -1e30  # the log of a gate that lets nothing in


class MLSTM(Mixer):
    """C_t = f_t C_{t−1} + e^{i_t} k_t v_tᵀ, n_t = f_t n_{t−1} + e^{i_t} k_t, h_t = C_tᵀ q / max(|n_tᵀ q|, 1) with q = q_t/√K,
    y = W_o(σ(W_g x) ⊙ norm(h)) (Beck et al. 2024, arXiv 2405.04517, in the form of the 7 B model, arXiv 2503.13427: no convolution by default, and
    logits of the gates capped).

    i and f are numbers a head, f = σ(f̃), both of cap(z) = gate_cap · tanh(z / gate_cap). C and n are kept divided by e^m, where m is 0 before a
    document and m_t = max(m_{t−1} + log f_t, i_t): every exponent is then at most 0, and 1 becomes e^{−m} (+ eps). They are one linear attention, n being
    the column that a constant value of 1 makes in C. m cancels but for eps, and has no gradient. head_dim=None is width / heads, key_dim=None half of it.
    Input gates start at e^−10 before the cap, forget gates between σ(3) and σ(6), as the authors have them.

    Training O(T·H·(C·(K + V) + K·V)) time by chunks of C tokens; decoding state H·(K·(V + 1) + 1) numbers. Raises ValueError where heads do not divide
    the width, for an odd head_dim without key_dim, and for a gate_cap that is not above 0.
    """

    heads: int = 4
    head_dim: int | None = None
    key_dim: int | None = None
    gate_cap: float | None = 15.0
    eps: float = 1e-6
    norm: Norm = EachHeadLayerNorm()
    conv: ShortConv | None = None
    output_init: Initializer = FanIn()
    chunk: int | None = None
    implementation: str | None = None
    variants: ClassVar = ({"gate_cap": None, "conv": ShortConv(), "chunk": 4},)

    def dims(self, width: int) -> tuple[int, int]:
        """(K, V) at this width."""
        value = head_width(self, width)
        at_least(self, 1, "key_dim")
        if self.key_dim is None and value % 2:
            raise ValueError(f"MLSTM: head_dim={value} must be even, or key_dim given")
        if self.gate_cap is not None and self.gate_cap <= 0:
            raise ValueError(f"MLSTM: gate_cap={self.gate_cap} must be above 0; None caps nothing")
        return value // 2 if self.key_dim is None else self.key_dim, value

    def init_state(self, batch, length, width, dtype):
        (key, value), wide = self.dims(width), jnp.promote_types(dtype, jnp.float32)
        memory = jnp.zeros((batch, self.heads, key, value + 1), wide), jnp.zeros((batch, self.heads), wide)
        widths = {"q": self.heads * key, "k": self.heads * key, "v": self.heads * value}
        return RecurrentState.empty(batch, memory, tails(self.conv, batch, dtype, **widths))

    def flops(self, length, width):
        key, value = self.dims(width)
        conv = 0.0 if self.conv is None else self.conv.flops(self.heads * (2 * key + value))
        return conv + linear_attention_flops(length, self.chunk, self.heads, key, value + 1)

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, found, wide = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2]), jnp.promote_types(x_btd.dtype, jnp.float32)
        key, value = self.dims(width)
        project = Project(self, x_btd, found, state, self.conv)
        q_bthk, k_bthk, v_bthv = project("q", self.heads, key), project("k", self.heads, key), project("v", self.heads, value)

        def gate(name, bias):
            z_bth = Linear(self.heads, ("width", "heads"), name=name)(x_btd).astype(wide)
            z_bth = z_bth + parameter(self, f"{name}_bias", bias, (self.heads,), ("heads",))
            return z_bth if self.gate_cap is None else self.gate_cap * jnp.tanh(z_bth / self.gate_cap)

        i_bth, f_bth = gate("input_gate", Fill(-10.0)), jax.nn.log_sigmoid(gate("forget_gate", Even(3.0, 6.0)))
        sums, start_bh = (None, jnp.zeros_like(i_bth[:, 0])) if state is None else state.memory
        if found.real_bt is not None:
            i_bth, f_bth = jnp.where(found.real_bt[..., None], i_bth, NOTHING), jnp.where(found.real_bt[..., None], f_bth, 0)
        before_bth, top_bth = stabiliser(i_bth, f_bth, start_bh, found.reset_bt)
        ones_bthv = jnp.ones((*v_bthv.shape[:3], 1), v_bthv.dtype)
        both_bthv, sums = kernels.linear_attention(
            q_bthk * key**-0.5, (k_bthk * to_first_axes(jnp.exp(i_bth - top_bth), k_bthk.shape)).astype(x_btd.dtype), jnp.concatenate([v_bthv, ones_bthv], axis=-1),
            before_bth + f_bth - top_bth, state_bhkv=sums, reset_bt=found.reset_bt, real_bt=found.real_bt, chunk=self.chunk, implementation=self.implementation,
        )  # fmt: skip
        both_bthv = both_bthv.astype(wide)
        norm_bth = jnp.maximum(jnp.abs(both_bthv[..., -1]), jnp.exp(-top_bth)) + self.eps
        h_bthv = adopt(self, self.norm, "head_norm")((both_bthv[..., :-1] / to_first_axes(norm_bth, v_bthv.shape)).astype(x_btd.dtype))
        h_bthv = h_bthv * jax.nn.sigmoid(project("gate", self.heads, value, conv=False))
        y_btd = Linear(width, ("heads", "width"), init=self.output_init, name="output")(rearrange(h_bthv, "b t h v -> b t (h v)"))
        return y_btd, None if state is None else RecurrentState((sums, top_bth[:, -1]), project.tails, found.last_b)


def stabiliser(i_bth: jax.Array, f_bth: jax.Array, start_bh: jax.Array, reset_bt: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """(m_{t−1}, m_t) of m_t = max(m_{t−1} + f_t, i_t), in a tree of depth log T; at a reset m_{t−1} is 0. No gradient."""
    i_bth, f_bth, start_bh = jax.lax.stop_gradient((i_bth, f_bth, start_bh))
    least_bth = i_bth
    if reset_bt is not None:
        least_bth = jnp.where(reset_bt[..., None], jnp.maximum(f_bth, i_bth), i_bth)
    fading_bth = f_bth if reset_bt is None else jnp.where(reset_bt[..., None], NOTHING, f_bth)
    least_bth = least_bth.at[:, 0].max(start_bh + fading_bth[:, 0])
    _, top_bth = jax.lax.associative_scan(lambda a, b: (a[0] + b[0], jnp.maximum(a[1] + b[0], b[1])), (fading_bth, least_bth), axis=1)
    before_bth = jnp.concatenate([start_bh[:, None], top_bth[:, :-1]], axis=1)
    return before_bth if reset_bt is None else jnp.where(reset_bt[..., None], 0, before_bth), top_bth
