"""cosFormer: linear attention whose weights fade with distance by a cosine."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm.nn.init import FanIn, Initializer
from effllm.nn.linear import Linear
from effllm.nn.linear_attention import normalised
from effllm.nn.mixer import Mixer
from effllm.nn.recurrent import Project, RecurrentState, documents, head_width, linear_attention_flops, tails
from effllm.nn.short_conv import ShortConv


class CosFormer(Mixer):
    """Weights relu(q_t)ᵀrelu(k_s)·cos(π(t − s)/2M), normalised to sum 1 (Qin et al. 2022, arXiv 2202.08791).

    The cosine of a difference splits in two, cos a cos b + sin a sin b, so features are [relu(x) cos(πt/2M), relu(x) sin(πt/2M)]. M is
    `longest`: a distance beyond it would weigh less than nothing, so texts are at most M tokens.

    Training O(T·H·(C·K + 2·K²)) time by chunks of C tokens; decoding state 2·H·K·(K + 1) numbers.
    Raises ValueError where heads do not divide the width, and for a text or a state longer than M. Positions beyond M that only the data know
    give NaN.
    """

    heads: int = 4
    head_dim: int | None = None
    longest: int = 4096
    conv: ShortConv | None = None
    output_init: Initializer = FanIn()
    chunk: int | None = None
    implementation: str | None = None

    def check(self, length: int) -> None:
        """Raise ValueError for a text longer than M."""
        if length > self.longest:
            raise ValueError(f"CosFormer: {length} tokens are more than longest={self.longest}, beyond which weights turn negative; raise it")

    def init_state(self, batch, length, width, dtype):
        self.check(length)
        dim = head_width(self, width)
        sums = jnp.zeros((batch, self.heads, 2 * dim, dim + 1), jnp.promote_types(dtype, jnp.float32))
        return RecurrentState.empty(batch, sums, tails(self.conv, batch, dtype, **dict.fromkeys("qkv", self.heads * dim)))

    def flops(self, length, width):
        dim = head_width(self, width)
        conv = 0.0 if self.conv is None else 3 * self.conv.flops(self.heads * dim)
        return conv + linear_attention_flops(length, self.chunk, self.heads, 2 * dim, dim + 1)

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        self.check(x_btd.shape[1])
        dim, found = head_width(self, x_btd.shape[-1]), documents(segment_ids, state, x_btd.shape[:2])
        project = Project(self, x_btd, found, state, self.conv)
        q_bthk, k_bthk, v_bthv = (project(name, self.heads, dim) for name in "qkv")
        angle_bt11 = (jnp.pi / 2 / self.longest * positions.astype(jnp.promote_types(x_btd.dtype, jnp.float32)))[..., None, None]
        angle_bt11 = jnp.where(positions[..., None, None] < self.longest, angle_bt11, jnp.nan)

        def features(x_bthk):
            x_bthk = jax.nn.relu(x_bthk)
            return jnp.concatenate([x_bthk * jnp.cos(angle_bt11), x_bthk * jnp.sin(angle_bt11)], axis=-1).astype(x_bthk.dtype)

        o_bthv, sums = normalised(
            features(q_bthk), features(k_bthk), v_bthv, state_bhkv=None if state is None else state.memory,
            reset_bt=found.reset_bt, real_bt=found.real_bt, chunk=self.chunk, implementation=self.implementation,
        )  # fmt: skip
        y_btd = Linear(x_btd.shape[-1], ("heads", "width"), init=self.output_init, name="output")(rearrange(o_bthv, "b t h v -> b t (h v)"))
        return y_btd, None if state is None else RecurrentState(sums, project.tails, found.last_b)
