"""Random feature attention: the Gaussian kernel by sines and cosines, with a gate that forgets."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm import kernels
from effllm.nn.init import Fill, FanIn, Initializer
from effllm.nn.linear import Linear, parameter
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.performer import OrthogonalGaussian
from effllm.nn.recurrent import Project, RecurrentState, documents, head_width, linear_attention_flops, tails
from effllm.nn.short_conv import ShortConv
from effllm.ops.broadcast import to_first_axes, to_last_axes
from effllm.ops.norm import unit


class RandomFeatureAttention(Mixer):
    """softmax attention of unit q and k by φ(x) = [sin w_i·(s ⊙ x), cos w_i·(s ⊙ x)]/√m, E φ(q)ᵀφ(k) = exp(−‖s ⊙ (q − k)‖²/2), whose scale s (H, K)
    starts at 1 and is learned, as log s (Peng et al. 2021, arXiv 2103.02143).

    With `gate`, S_t = g_t S_{t−1} + (1 − g_t) φ(k_t) v_tᵀ and so the sum z of features, g_t = sigmoid(W x_t + b) a head; o_t = S_tᵀφ(q_t) / φ(q_t)ᵀz_t.
    The true denominator is at least e^(−2) a unit of weight where s = 1; its estimate may vanish, and is held above `floor`, an absolute number as in
    the authors' code: what gates have let in by t weighs 1 − Π g in all, and while the denominator that this gives is below the floor (the first tokens of a
    document under gates near 1) outputs are smaller than the averages they stand for. The w_i are a parameter without gradient, drawn as Performer's are (and
    anew by Performer.redraw). `features` is the number m of w_i.

    Training O(T·H·(C·(m + K) + m·K)) time by chunks of C tokens; decoding state 2·H·m·(K + 1) numbers.
    Raises ValueError where heads do not divide the width, for features below 1, and for a floor that is not above 0.
    """

    heads: int = 4
    head_dim: int | None = None
    features: int = 32
    gate: bool = True
    floor: float = 0.02
    conv: ShortConv | None = None
    output_init: Initializer = FanIn()
    chunk: int | None = None
    implementation: str | None = None
    variants: ClassVar = ({"gate": False},)

    def head_dim_for(self, width: int) -> int:
        """The head_dim at this width."""
        at_least(self, 1, "features")
        if self.floor <= 0:
            raise ValueError(f"RandomFeatureAttention: floor={self.floor} must be above 0: estimates of the denominator may be below")
        return head_width(self, width)

    def init_state(self, batch, length, width, dtype):
        dim = self.head_dim_for(width)
        sums = jnp.zeros((batch, self.heads, 2 * self.features, dim + 1), jnp.promote_types(dtype, jnp.float32))
        return RecurrentState.empty(batch, sums, tails(self.conv, batch, dtype, **dict.fromkeys("qkv", self.heads * dim)))

    def flops(self, length, width):
        dim = self.head_dim_for(width)
        conv = 0.0 if self.conv is None else 3 * self.conv.flops(self.heads * dim)
        return conv + 4.0 * self.heads * self.features * dim + linear_attention_flops(length, self.chunk, self.heads, 2 * self.features, dim + 1)

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, found = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2])
        dim, wide = self.head_dim_for(width), jnp.promote_types(x_btd.dtype, jnp.float32)
        project = Project(self, x_btd, found, state, self.conv)
        q_bthk, k_bthk, v_bthv = (project(name, self.heads, dim).astype(wide) for name in "qkv")
        w_mk = jax.lax.stop_gradient(parameter(self, "random_features", OrthogonalGaussian(), (self.features, dim), (None, None)))

        scale_hk = jnp.exp(parameter(self, "log_scale", Fill(0.0), (self.heads, dim), ("heads", None)).astype(wide))

        def features(x_bthk):
            angle_bthm = unit(x_bthk) * to_last_axes(scale_hk, x_bthk.shape) @ w_mk.T
            return jnp.concatenate([jnp.sin(angle_bthm), jnp.cos(angle_bthm)], axis=-1) / self.features**0.5

        q_bthm, k_bthm, decay = features(q_bthk), features(k_bthk), None
        if self.gate:
            g_bth = Linear(self.heads, ("width", "heads"), bias=True, name="gate")(x_btd).astype(wide)
            decay, k_bthm = jax.nn.log_sigmoid(g_bth), k_bthm * to_first_axes(jax.nn.sigmoid(-g_bth), k_bthm.shape)
        one_bth1 = jnp.ones((*v_bthv.shape[:-1], 1), wide)
        sums_bthv, sums = kernels.linear_attention(
            q_bthm, k_bthm, jnp.concatenate([v_bthv, one_bth1], axis=-1), decay, state_bhkv=None if state is None else state.memory,
            reset_bt=found.reset_bt, real_bt=found.real_bt, chunk=self.chunk, implementation=self.implementation,
        )  # fmt: skip
        o_bthv = sums_bthv[..., :-1] / to_first_axes(jnp.maximum(sums_bthv[..., -1], self.floor), v_bthv.shape)
        o_btf = rearrange(o_bthv.astype(x_btd.dtype), "b t h v -> b t (h v)")
        y_btd = Linear(width, ("heads", "width"), init=self.output_init, name="output")(o_btf)
        return y_btd, None if state is None else RecurrentState(sums, project.tails, found.last_b)
