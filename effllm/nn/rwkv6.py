"""RWKV-6 over time: decays and blends that depend on the token. A layer is two blocks: Block(RWKV6TimeMix(), None), Block(RWKV4ChannelMix(), None), the
channel mix having stayed RWKV-4's."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm import kernels
from effllm.nn.decay_init import Even, Spread
from effllm.nn.init import Fill, FanIn, Initializer, Normal
from effllm.nn.linear import Linear, parameter
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.norm import EachHeadLayerNorm
from effllm.nn.recurrent import RecurrentState, documents, head_width, linear_attention_flops
from effllm.nn.token_shift import token_shift
from effllm.ops.broadcast import to_last_axes
from effllm.ops.short_conv import Tail
from effllm.shard import shard

BLENDS = "decay", "key", "value", "receptance", "gate"


class RWKV6TimeMix(Mixer):
    """S_t = diag(w_t) S_{t−1} + k_t v_tᵀ, o_t = (S_{t−1} + diag(u) k_t v_tᵀ)ᵀ r_t, y = W_o(norm(o) ⊙ silu(g)) (Peng et al. 2024, arXiv 2404.05892).

    Each of k, v, r, g and w comes from its own blend x_t + (μ + λ_t) ⊙ (x_{t−1} − x_t), where λ_t = tanh(x̂ A) B of `blend_rank` channels depends on a
    first blend x̂; log w = −exp(ω + tanh(x A) B) of `rank`. ω starts from −6 to −1 over the channels of all
    heads; norm is a LayerNorm of each head, with its own scale and bias.

    Training O(T·H·(C·K + K²)) time by chunks of C tokens; decoding state H·K² numbers and one token of D.
    Raises ValueError where heads do not divide the width, and for ranks below 1.
    """

    heads: int = 4
    head_dim: int | None = None
    blend_rank: int = 32
    rank: int = 64
    output_init: Initializer = FanIn()
    chunk: int | None = None
    implementation: str | None = None

    def init_state(self, batch, length, width, dtype):
        dim = head_width(self, width)
        memory = jnp.zeros((batch, self.heads, dim, dim), jnp.promote_types(dtype, jnp.float32))
        return RecurrentState.empty(batch, memory, Tail.empty(batch, 2, width, dtype))

    def flops(self, length, width):
        dim = head_width(self, width)
        return linear_attention_flops(length, self.chunk, self.heads, dim, dim) + 18.0 * width  # six blends

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, found, wide = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2]), jnp.promote_types(x_btd.dtype, jnp.float32)
        at_least(self, 1, "blend_rank", "rank")
        dim = head_width(self, width)
        inner = self.heads * dim
        before_btd, tail = token_shift(x_btd, found.segments_bt, None if state is None else state.tails)
        change_btd = before_btd - x_btd

        def mix(name):
            return to_last_axes(parameter(self, f"mix_{name}", Even(0.0, 1.0), (width,), (None,)).astype(x_btd.dtype), x_btd.shape)

        first_btd = x_btd + mix("first") * change_btd
        low_btr = jnp.tanh(Linear(len(BLENDS) * self.blend_rank, ("width", None), name="blend_down")(first_btd))
        lows = jnp.split(low_btr, len(BLENDS), axis=-1)
        blends = {}
        for name, low in zip(BLENDS, lows, strict=True):
            shift_btd = Linear(width, (None, "width"), init=Normal(0.01), name=f"blend_{name}")(low)
            blends[name] = x_btd + (mix(name) + shift_btd) * change_btd

        def heads(y_btf):
            return shard(rearrange(y_btf, "b t (h k) -> b t h k", h=self.heads), "batch", "length", "heads", None)

        r_bthk, k_bthk, v_bthk, g_bthk = (heads(Linear(inner, ("width", "heads"), name=n)(blends[n])) for n in ("receptance", "key", "value", "gate"))
        low_btr = jnp.tanh(Linear(self.rank, ("width", None), name="decay_down")(blends["decay"]))
        decay_bthk = heads(Linear(inner, (None, "heads"), init=Normal(0.01), name="decay_up")(low_btr).astype(wide))
        decay_bthk = decay_bthk + parameter(self, "decay", Spread(-6.0, -1.0), (self.heads, dim), ("heads", None))
        bonus_hk = parameter(self, "bonus", Fill(0.5), (self.heads, dim), ("heads", None))
        o_bthk, memory = kernels.linear_attention(
            r_bthk, k_bthk, v_bthk, -jnp.exp(jnp.minimum(decay_bthk, 20.0)), bonus_hk=bonus_hk,  # e^(−e^20) is 0, and its gradient finite
            state_bhkv=None if state is None else state.memory,
            reset_bt=found.reset_bt, real_bt=found.real_bt, chunk=self.chunk, implementation=self.implementation,
        )  # fmt: skip
        o_bthk = EachHeadLayerNorm(64e-5, bias=True, name="head_norm")(o_bthk) * jax.nn.silu(g_bthk)
        y_btd = Linear(width, ("heads", "width"), init=self.output_init, name="output")(rearrange(o_bthk, "b t h k -> b t (h k)"))
        return y_btd, None if state is None else RecurrentState(memory, tail, found.last_b)
