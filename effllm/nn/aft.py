"""The attention-free transformer: full, local, convolutional and simple."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.cache import KVCache
from effllm.nn.init import FanIn, Initializer, Normal
from effllm.nn.linear import Linear, parameter
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.recurrent import RecurrentState, check_segments, documents
from effllm.ops.wkv import Average
from effllm.shard import shard


class AFTBase(Mixer):
    """W_o(σ(q) ⊙ average(k, v)) (Zhai et al. 2021, arXiv 2105.14103); what all of the family do."""

    output_init: Initializer = FanIn()
    implementation: str | None = None

    def average(self, k_btd, v_btd, positions, segment_ids, state):
        """(y (B, T, D), state) of values weighted by exp(k + w)."""
        raise TypeError(f"{type(self).__name__} does not say how it averages: it needs an average()")

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width = x_btd.shape[-1]
        q_btd, k_btd, v_btd = (shard(Linear(width, ("width", "hidden"), name=n)(x_btd), "batch", "length", "hidden") for n in "qkv")
        y_btd, state = self.average(k_btd, v_btd, positions, segment_ids, state)
        y_btd = jax.nn.sigmoid(q_btd) * y_btd.astype(x_btd.dtype)
        return Linear(width, ("hidden", "width"), False, self.output_init, name="output")(y_btd), state


class AFTSimple(AFTBase):
    """AFT-simple, w = 0: y_t = σ(q_t) ⊙ Σ_{s≤t} e^{k_s} v_s / Σ_{s≤t} e^{k_s}, then W_o (Zhai et al. 2021, arXiv 2105.14103, §3.2).

    Training O(T·D²), the average O(T·D); decoding state 3·D numbers.
    """

    def init_state(self, batch, length, width, dtype):
        return RecurrentState.empty(batch, Average.empty(batch, width, jnp.promote_types(dtype, jnp.float32)))

    def flops(self, length, width):
        return 12.0 * width

    def average(self, k_btd, v_btd, positions, segment_ids, state):
        now = documents(segment_ids, state, k_btd.shape[:2])
        nothing_d = jnp.zeros(k_btd.shape[-1:])
        y_btd, after = ops.wkv(
            k_btd, v_btd, nothing_d, nothing_d, None if state is None else state.memory,
            real_bt=now.real_bt, reset_bt=now.reset_bt, implementation=self.implementation,
        )  # fmt: skip
        return y_btd, None if state is None else RecurrentState(after, (), now.last_b)


class AFTBiased(AFTBase):
    """What the members with a bias w share: keys and values of all tokens as state."""

    def bias(self, q_positions_bt, k_positions_bs, width):
        """s ↦ w (B, T, S', D or 1) of the keys s, given the positions of queries and keys."""
        raise TypeError(f"{type(self).__name__} does not say its bias: it needs a bias()")

    def init_state(self, batch, length, width, dtype):
        return KVCache.empty(batch, length, 1, width, width, dtype)

    def flops(self, length, width):
        return 5.0 * width * length / 2  # a sum, an exponential, and two products with sums for each pair

    def average(self, k_btd, v_btd, positions, segment_ids, state):
        check_segments(segment_ids, k_btd.shape[:2])
        if state is None:
            segments_bs = jnp.ones(positions.shape, jnp.int32) if segment_ids is None else segment_ids
            order_bt = jnp.broadcast_to(jnp.arange(positions.shape[1]), positions.shape)
            y_btd = ops.aft(
                k_btd, v_btd, self.bias(positions, positions, k_btd.shape[-1]), q_order_bt=order_bt, k_order_bs=order_bt,
                q_segments_bt=segments_bs, k_segments_bs=segments_bs, implementation=self.implementation,
            )  # fmt: skip
            return y_btd, None
        segments_bt = state.segments(segment_ids, k_btd)
        state, seen = state.extend(k_btd[:, :, None], v_btd[:, :, None], segments_bt, positions)
        y_btd = ops.aft(
            seen.k_bsgk[:, :, 0], seen.v_bsgk[:, :, 0], self.bias(positions, seen.k_positions_bs, k_btd.shape[-1]), q_order_bt=seen.q_order_bt,
            k_order_bs=seen.k_order_bs, q_segments_bt=segments_bt, k_segments_bs=seen.k_segments_bs, implementation=self.implementation,
        )  # fmt: skip
        return jnp.where(seen.lost_bt[..., None], jnp.nan, y_btd), state


class AFTFull(AFTBiased):
    """AFT-full, w_ts = u_t · v_s / √R with learned u, v (length, R): y_t = σ(q_t) ⊙ Σ_{s≤t} e^{k_s + w_ts} v_s / Σ_{s≤t} e^{k_s + w_ts}, then W_o (Zhai et al. 2021,
    arXiv 2105.14103, §3.1 with the factors of its appendix). t and s are positions, of which `length` have a vector; one beyond gives NaN.

    Training O(T²·D) time, O(T·D) memory; decoding state 2·D numbers for each of T tokens. Raises ValueError for one document of more than `length` tokens.
    """

    length: int = 2048
    rank: int = 16
    factor_init: Initializer = Normal(0.1)

    def product(self, q_positions_bt, k_positions_bs):
        """s ↦ (B, T, S') u_t · v_s / √R."""
        at_least(self, 1, "rank")
        u_lr, v_lr = (parameter(self, n, self.factor_init, (self.length, self.rank), (None, None)) for n in ("query_places", "key_places"))
        u_btr = jnp.where((q_positions_bt < self.length)[..., None], u_lr[jnp.minimum(q_positions_bt, self.length - 1)], jnp.nan)
        return lambda s: jnp.einsum("btr,bsr->bts", u_btr, v_lr[jnp.minimum(k_positions_bs[:, s], self.length - 1)]) * self.rank**-0.5

    def bias(self, q_positions_bt, k_positions_bs, width):
        product = self.product(q_positions_bt, k_positions_bs)
        return lambda s: product(s)[..., None]

    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        if segment_ids is None and x_btd.shape[1] > self.length:
            raise ValueError(f"{type(self).__name__}: a document of {x_btd.shape[1]} tokens is longer than length={self.length}; raise length")
        return super().__call__(x_btd, positions=positions, segment_ids=segment_ids, state=state)


class AFTLocal(AFTFull):
    """AFT-local: AFT-full with w_ts = 0 where t − s ≥ `window`, so that far tokens weigh by their keys alone (Zhai et al. 2021, arXiv 2105.14103, §3.2).

    Costs what AFT-full does. Raises ValueError for a window below 1, and as AFT-full does.
    """

    window: int = 32

    def bias(self, q_positions_bt, k_positions_bs, width):
        at_least(self, 1, "window")
        product = self.product(q_positions_bt, k_positions_bs)
        return lambda s: jnp.where(q_positions_bt[..., None] - k_positions_bs[:, None, s] < self.window, product(s), 0)[..., None]


class AFTConv(AFTBiased):
    """AFT-conv, w a learned number of lag and head: Σ_{s≤t} e^{k_s + w_h[t−s]} v_s / Σ …, w_h zero from lag `window` on; channels of a head share w (Zhai et al. 2021,
    arXiv 2105.14103, §3.3).

    Training O(T²·D) time, O(T·D) memory; decoding state 2·D numbers for each of T tokens. Raises ValueError for a window below 1 and where heads do not divide the width.
    """

    heads: int = 4
    window: int = 32
    bias_init: Initializer = Normal(0.1)

    def bias(self, q_positions_bt, k_positions_bs, width):
        at_least(self, 1, "window", "heads")
        if width % self.heads:
            raise ValueError(f"AFTConv: width={width} is not a multiple of heads={self.heads}; change heads")
        table_wh = parameter(self, "lags", self.bias_init, (self.window, self.heads), (None, None))
        table_ld = jnp.repeat(jnp.pad(table_wh, ((0, 1), (0, 0))), width // self.heads, axis=1)
        return lambda s: table_ld[jnp.clip(q_positions_bt[..., None] - k_positions_bs[:, None, s], 0, self.window)]
