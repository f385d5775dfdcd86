"""RWKV-7: a generalised delta rule over time, and a feed-forward layer that sees the token before. A layer is two blocks: ValueResidualBlock(RWKV7TimeMix(), None),
Block(RWKV7ChannelMix(), None), each with its own norm and residual."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm import ops
from effllm.nn.decay_init import Even, Spread
from effllm.nn.first_values import FirstValues, ValueMixer
from effllm.nn.init import Fill, FanIn, Initializer, Normal
from effllm.nn.linear import Linear, parameter
from effllm.nn.mixer import at_least
from effllm.nn.norm import EachHeadLayerNorm
from effllm.nn.recurrent import RecurrentState, delta_rule_flops, documents, head_width
from effllm.nn.token_shift import ChannelMix, token_shift
from effllm.ops.broadcast import to_first_axes, to_last_axes
from effllm.ops.norm import unit
from effllm.ops.short_conv import Tail
from effllm.shard import shard


class RWKV7TimeMix(ValueMixer):
    """S_t = diag(w_t) S_{t−1} − (a_t ⊙ κ_t)(S_{t−1}ᵀκ_t)ᵀ + k̃_t v_tᵀ, y = W_o(g ⊙ (norm(S_tᵀr_t) + (Σ ρ ⊙ r_t ⊙ k̃_t) v_t)) (Peng et al. 2025, arXiv
    2503.14456).

    r, k, v, w, a and g come from their own blends x_t + μ ⊙ (x_{t−1} − x_t). κ is k ⊙ ξ made a unit vector a head, a = σ(a₀ + low rank) the
    rate at which what it held is taken out, k̃ = k ⊙ (1 + (a − 1) ⊙ α), log w = −e^(−½)·σ(w₀ + low rank), so that w ≥ 0.545, and g = W σ(W x). The low
    ranks are `rank` wide and, but for g's, start near 0. In a ValueResidualBlock v becomes v + σ(v₀ + low rank of v's blend) ⊙ (v' − v), v' the values of
    the model's first such layer, as the paper has it; there the low rank of the first layer has no effect.

    Starts over the channels of all heads as in the authors' code: w₀ rises from −6.5 to −1.5 (w from 0.9991 to 0.895) as n^1.5, where theirs goes from
    n^0.85 in the first layer to n^1.85 in the last, which a mixer does not know; v₀ falls from 0.93 to 0.53; a₀ = 0. `norm` is a LayerNorm of each head,
    with its own scale and bias.

    Training O(T·H·(C·K + C² + K²)) time by chunks of C tokens; decoding state H·K² numbers and one token of D.
    Raises ValueError where heads do not divide the width, and for a rank below 1.
    """

    heads: int = 4
    head_dim: int | None = None
    rank: int = 32
    output_init: Initializer = FanIn()
    chunk: int = 32
    implementation: str | None = None

    def init_state(self, batch, length, width, dtype):
        dim = head_width(self, width)
        memory = jnp.zeros((batch, self.heads, dim, dim), jnp.promote_types(dtype, jnp.float32))
        return RecurrentState.empty(batch, memory, Tail.empty(batch, 2, width, dtype))

    def flops(self, length, width):
        dim = head_width(self, width)
        return delta_rule_flops(length, self.chunk, self.heads, dim, dim) + 18.0 * width  # six blends

    def first_values(self, x_btd):
        return FirstValues.none((*x_btd.shape[:2], self.heads, head_width(self, x_btd.shape[-1])), x_btd.dtype)

    @nn.compact
    def with_values(self, x_btd, first, *, positions, segment_ids, state=None):
        width, found, wide = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2]), jnp.promote_types(x_btd.dtype, jnp.float32)
        at_least(self, 1, "rank")
        dim = head_width(self, width)
        inner = self.heads * dim
        before_btd, tail = token_shift(x_btd, found.segments_bt, None if state is None else state.tails)

        def blend(name):
            mix_btd = to_last_axes(parameter(self, f"mix_{name}", Even(0.0, 1.0), (width,), (None,)).astype(x_btd.dtype), x_btd.shape)
            return x_btd + mix_btd * (before_btd - x_btd)

        def project(name):
            return heads(Linear(inner, ("width", "heads"), name=name)(blend(name)))

        def low_rank(name, between, init=FanIn(), of=None):
            low_btr = between(Linear(self.rank, ("width", None), name=f"{name}_down")(blend(of or name)))
            return heads(Linear(inner, (None, "heads"), init=init, name=f"{name}_up")(low_btr))

        def moved(name, start, between=lambda x: x, of=None):
            """σ(start + low rank), a number of each channel that tokens move."""
            start_hk = parameter(self, name, start, (self.heads, dim), ("heads", None))
            return jax.nn.sigmoid(low_rank(name, between, Normal(0.01), of).astype(wide) + start_hk)

        def heads(y_btf):
            return shard(rearrange(y_btf, "b t (h k) -> b t h k", h=self.heads), "batch", "length", "heads", None)

        def scale(name, value):
            return to_last_axes(parameter(self, name, Fill(value), (self.heads, dim), ("heads", None)), r_bthk.shape)

        r_bthk, k_bthk, v_bthk = (project(name) for name in ("receptance", "key", "value"))
        if first is not None:
            first = first.or_else(v_bthk)
            v_bthk = v_bthk + moved("residual", Spread(0.93, 0.53), of="value").astype(x_btd.dtype) * (first.v_bthv - v_bthk)
        log_w_bthk = -jnp.exp(-0.5) * moved("decay", Spread(-6.5, -1.5, 1.5), jnp.tanh)
        a_bthk = moved("rate", Fill(0.0))
        kappa_bthk = k_bthk.astype(wide) * scale("removal_scale", 0.85)
        kappa_bthk = unit(kappa_bthk, 1e-12)
        k_bthk = (k_bthk * (1 + (a_bthk - 1) * scale("rate_scale", 1.0))).astype(x_btd.dtype)
        o_bthk, memory = ops.dplr(
            r_bthk, k_bthk, v_bthk, kappa_bthk.astype(x_btd.dtype), (-a_bthk * kappa_bthk).astype(x_btd.dtype), log_w_bthk,
            state_bhkv=None if state is None else state.memory,
            reset_bt=found.reset_bt, real_bt=found.real_bt, chunk=self.chunk, implementation=self.implementation,
        )  # fmt: skip
        o_bthk = EachHeadLayerNorm(64e-5, bias=True, name="head_norm")(o_bthk)
        bonus_bth = jnp.einsum("bthk,bthk->bth", scale("bonus", 0.0) * r_bthk.astype(wide), k_bthk.astype(wide))
        o_bthk = (o_bthk + (to_first_axes(bonus_bth, v_bthk.shape) * v_bthk).astype(x_btd.dtype)) * low_rank("gate", jax.nn.sigmoid)
        y_btd = Linear(width, ("heads", "width"), init=self.output_init, name="output")(rearrange(o_bthk, "b t h k -> b t (h k)"))
        return y_btd, None if state is None else RecurrentState(memory, tail, found.last_b), first


class RWKV7ChannelMix(ChannelMix):
    """W_v relu(W_k(x_t + μ ⊙ (x_{t−1} − x_t)))²: RWKV's feed-forward layer without its gate (Peng et al. 2025, arXiv 2503.14456).

    `hidden=None` is four times the width.

    Training O(T·D·F); decoding state one token of D.
    """

    def flops(self, length, width):
        return 3.0 * width

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, found = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2])
        before_btd, tail = token_shift(x_btd, found.segments_bt, None if state is None else state.tails)
        mix_btd = to_last_axes(parameter(self, "mix", Even(0.0, 1.0), (width,), (None,)).astype(x_btd.dtype), x_btd.shape)
        k_btf = Linear(self.width_for(width), ("width", "hidden"), name="key")(x_btd + mix_btd * (before_btd - x_btd))
        k_btf = shard(jnp.square(nn.relu(k_btf)), "batch", "length", "hidden")
        y_btd = Linear(width, ("hidden", "width"), False, self.output_init, name="value")(k_btf)
        return y_btd, None if state is None else RecurrentState((), tail, found.last_b)
