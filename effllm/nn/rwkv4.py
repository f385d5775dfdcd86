"""RWKV-4: a decayed average over time, and a feed-forward layer that sees the token before. A layer is two blocks: Block(RWKV4TimeMix(), None),
Block(RWKV4ChannelMix(), None), each with its own norm and residual."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.decay_init import Even
from effllm.nn.init import Fill, FanIn, Initializer
from effllm.nn.linear import Linear, parameter
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.recurrent import RecurrentState, documents
from effllm.nn.token_shift import ChannelMix, token_shift
from effllm.ops.broadcast import to_last_axes
from effllm.ops.short_conv import Tail
from effllm.ops.wkv import Average
from effllm.shard import shard


class RWKV4TimeMix(Mixer):
    """W_o(σ(r) ⊙ wkv(k, v)), each of r, k, v a product of W with μ ⊙ x_t + (1 − μ) ⊙ x_{t−1} (Peng et al. 2023, arXiv 2305.13048).

    wkv_t is the average of v_s with weights e^{k_s − (t−1−s)·exp(decay)}, s < t, and e^{k_t + bonus}. `hidden=None` is the width.

    Training O(T·D·F) time, O(T·F) memory; decoding state 3·F numbers and one token of D.
    """

    hidden: int | None = None
    output_init: Initializer = FanIn()
    implementation: str | None = None

    def width_for(self, width: int) -> int:
        """The width of keys and values at this model width."""
        at_least(self, 1, "hidden")
        return width if self.hidden is None else self.hidden

    def init_state(self, batch, length, width, dtype):
        hidden = self.width_for(width)
        return RecurrentState.empty(batch, Average.empty(batch, hidden, jnp.promote_types(dtype, jnp.float32)), Tail.empty(batch, 2, width, dtype))

    def flops(self, length, width):
        return 12.0 * self.width_for(width) + 9.0 * width  # two sums, their quotient and gate; three blends

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, now = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2])
        hidden = self.width_for(width)
        before_btd, tail = token_shift(x_btd, now.segments_bt, None if state is None else state.tails)

        def project(name):
            mix_btd = to_last_axes(parameter(self, f"mix_{name}", Even(0.0, 1.0), (width,), (None,)).astype(x_btd.dtype), x_btd.shape)
            y_btf = Linear(hidden, ("width", "hidden"), name=name)(mix_btd * x_btd + (1 - mix_btd) * before_btd)
            return shard(y_btf, "batch", "length", "hidden")

        decay_f = parameter(self, "decay", Even(-5.0, 3.0), (hidden,), ("hidden",))
        bonus_f = parameter(self, "bonus", Fill(math.log(0.3)), (hidden,), ("hidden",))
        y_btf, average = ops.wkv(
            project("key"), project("value"), -jnp.exp(decay_f), bonus_f, None if state is None else state.memory,
            real_bt=now.real_bt, reset_bt=now.reset_bt, implementation=self.implementation,
        )  # fmt: skip
        y_btf = jax.nn.sigmoid(project("receptance")) * y_btf.astype(x_btd.dtype)
        y_btd = Linear(width, ("hidden", "width"), False, self.output_init, name="output")(y_btf)
        return y_btd, None if state is None else RecurrentState(average, tail, now.last_b)


class RWKV4ChannelMix(ChannelMix):
    """σ(W_r x') ⊙ W_v relu(W_k x″)², x' and x″ blends μ ⊙ x_t + (1 − μ) ⊙ x_{t−1} (Peng et al. 2023, arXiv 2305.13048).

    `hidden=None` is four times the width.

    Training O(T·D·F); decoding state one token of D.
    """

    def flops(self, length, width):
        return 6.0 * width

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, now = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2])
        before_btd, tail = token_shift(x_btd, now.segments_bt, None if state is None else state.tails)

        def blend(name):
            mix_btd = to_last_axes(parameter(self, f"mix_{name}", Even(0.0, 1.0), (width,), (None,)).astype(x_btd.dtype), x_btd.shape)
            return mix_btd * x_btd + (1 - mix_btd) * before_btd

        k_btf = Linear(self.width_for(width), ("width", "hidden"), name="key")(blend("key"))
        k_btf = shard(jnp.square(nn.relu(k_btf)), "batch", "length", "hidden")
        v_btd = Linear(width, ("hidden", "width"), False, self.output_init, name="value")(k_btf)
        y_btd = jax.nn.sigmoid(Linear(width, ("width", None), name="receptance")(blend("receptance"))) * v_btd
        return y_btd, None if state is None else RecurrentState((), tail, now.last_b)
