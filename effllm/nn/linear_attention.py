"""Linear attention: softmax's exponential replaced by a product of features, so that a sum over the past stands for it."""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm import kernels
from effllm.nn.init import FanIn, Initializer
from effllm.nn.linear import Linear
from effllm.nn.mixer import Mixer
from effllm.nn.recurrent import Project, RecurrentState, documents, head_width, linear_attention_flops, tails
from effllm.nn.short_conv import ShortConv
from effllm.ops.broadcast import to_first_axes


def elu_plus_one(x: jax.Array) -> jax.Array:
    """elu(x) + 1: e^x below 0, however small (elu rounds it away), x + 1 above."""
    return jnp.where(x > 0, x + 1, jnp.exp(jnp.minimum(x, 0)))


def normalised(q_bthk: jax.Array, k_bthk: jax.Array, v_bthv: jax.Array, *decay: jax.Array, eps: float = 1e-6, **options) -> tuple[jax.Array, jax.Array]:
    """ops.linear_attention divided by the sum of its weights, which is carried as one more column of v: (o, state (B, H, K, V + 1))."""
    ones_bth1 = jnp.ones((*v_bthv.shape[:-1], 1), v_bthv.dtype)
    sums_bthv, state = kernels.linear_attention(q_bthk, k_bthk, jnp.concatenate([v_bthv, ones_bth1], axis=-1), *decay, **options)
    return sums_bthv[..., :-1] / to_first_axes(sums_bthv[..., -1] + eps, v_bthv.shape), state


class LinearAttention(Mixer):
    """o_t = Σ_{s≤t} φ(q_t)ᵀφ(k_s) v_s / Σ_{s≤t} φ(q_t)ᵀφ(k_s), φ = elu + 1 (Katharopoulos et al. 2020, arXiv 2006.16236).

    head_dim=None is width / heads. `feature_map` must be positive, or the denominator may vanish. `conv` puts a short convolution behind q, k
    and v.

    Training O(T·H·(C·K + K²)) time by chunks of C tokens; decoding state H·K·(K + 1) numbers, whatever the length.
    Raises ValueError where heads do not divide the width.
    """

    heads: int = 4
    head_dim: int | None = None
    feature_map: Callable = elu_plus_one
    conv: ShortConv | None = None
    output_init: Initializer = FanIn()
    chunk: int | None = None
    implementation: str | None = None
    variants: ClassVar = ({"conv": ShortConv()},)

    def init_state(self, batch, length, width, dtype):
        dim = head_width(self, width)
        sums = jnp.zeros((batch, self.heads, dim, dim + 1), jnp.promote_types(dtype, jnp.float32))
        return RecurrentState.empty(batch, sums, tails(self.conv, batch, dtype, **dict.fromkeys("qkv", self.heads * dim)))

    def flops(self, length, width):
        dim = head_width(self, width)
        conv = 0.0 if self.conv is None else 3 * self.conv.flops(self.heads * dim)
        return conv + linear_attention_flops(length, self.chunk, self.heads, dim, dim + 1)

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        dim, found = head_width(self, x_btd.shape[-1]), documents(segment_ids, state, x_btd.shape[:2])
        project = Project(self, x_btd, found, state, self.conv)
        q_bthk, k_bthk, v_bthv = (project(name, self.heads, dim) for name in "qkv")
        o_bthv, sums = normalised(
            self.feature_map(q_bthk), self.feature_map(k_bthk), v_bthv, state_bhkv=None if state is None else state.memory,
            reset_bt=found.reset_bt, real_bt=found.real_bt, chunk=self.chunk, implementation=self.implementation,
        )  # fmt: skip
        y_btd = Linear(x_btd.shape[-1], ("heads", "width"), init=self.output_init, name="output")(rearrange(o_bthv, "b t h v -> b t (h v)"))
        return y_btd, None if state is None else RecurrentState(sums, project.tails, found.last_b)
