"""The block-state transformer: attention within blocks, and to what a state space has made of the block before."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm import ops
from effllm.nn.cache import RingCache
from effllm.nn.init import FanIn, Initializer
from effllm.nn.linear import Linear
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.norm import Norm, RMSNorm
from effllm.nn.position import Position, RoPE
from effllm.nn.rebuild import adopt
from effllm.nn.recurrent import RecurrentState, documents
from effllm.nn.spectrum import HiPPO, Spectrum
from effllm.nn.state_space import DiagonalSSM, check_states
from effllm.ops.pattern import BlockLocal, Pattern
from effllm.shard import shard


@dataclass(frozen=True)
class BlockBefore(Pattern):
    """i sees j in the block of `size` positions before its own."""

    size: int

    def sees(self, i, j):
        return i // self.size == j // self.size + 1

    def may_see(self, i_least, i_most, j_least, j_most):
        return (i_least // self.size <= j_most // self.size + 1) & (j_least // self.size + 1 <= i_most // self.size)


class BlockState(Mixer):
    """W_o[self ; cross]: causal attention within blocks of `block` positions, and attention of each block to the `block` states that an SSM gave at the positions
    of the block before it (the multi-head Block-State Transformer of Fathi et al. 2023, arXiv 2306.09539). All blocks run at once.

    The state space is S4D's over the input of the layer; its outputs are normalised and make keys and values of their own. Blocks count from a document's start.

    Training O(T·D·(D + W + 64 + N)) with W = `block`; decoding state D·N complex numbers and 2·D for each of 3·W slots: the last
    W tokens, and the states at the last 2·W. Raises ValueError where
    heads do not divide the width, for a block below 1, and for a step that is not positive.
    """

    heads: int = 4
    block: int = 64
    states: int = 32
    spectrum: Spectrum = HiPPO()
    step: tuple[float, float] = (0.001, 0.1)
    position: Position = RoPE()
    norm: Norm = RMSNorm()
    output_init: Initializer = FanIn()
    implementation: str | None = None
    variants: ClassVar = ({"block": 4, "states": 4},)

    def head_dim(self, width: int) -> int:
        """The channels of a head at this width."""
        check_states(self)
        at_least(self, 1, "heads", "block")
        if width % self.heads:
            raise ValueError(f"BlockState: width={width} is not a multiple of heads={self.heads}; change heads")
        return width // self.heads

    def ssm(self):
        return DiagonalSSM(self.states, self.spectrum, self.step, parent=None)

    def init_state(self, batch, length, width, dtype):
        head_dim = self.head_dim(width)
        dims = self.heads, self.position.key_dim(head_dim), head_dim, dtype
        # A block sees its own tokens and the states of the one before: the last two blocks at most.
        caches = tuple(RingCache.empty(batch, min(length, n * self.block), *dims, window=n * self.block, first=0) for n in (1, 2))
        return RecurrentState.empty(batch, self.ssm().init_memory(batch, width, dtype), caches)

    def flops(self, length, width):
        return self.ssm().flops(length, width) + 4.0 * width * (min(self.block, length) / 2 + min(self.block, length))

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, now = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2])
        head_dim = self.head_dim(width)
        context_btd, memory = self.ssm().clone(parent=self, name="ssm")(x_btd, now, None if state is None else state.memory)
        context_btd = adopt(self, self.norm, "context_norm")(context_btd)

        def project(name, x):
            return shard(rearrange(Linear(width, ("width", "heads"), name=name)(x), "b t (h k) -> b t h k", h=self.heads), "batch", "length", "heads", None)

        def attend(name, source_btd, pattern, cache):
            q, k, v = project(f"{name}q", x_btd), project(f"{name}k", source_btd), project(f"{name}v", source_btd)
            q, k = self.position.rotate(q, k, positions)
            options = {"pattern": pattern, "bias": self.position.bias(self.heads, head_dim), "implementation": self.implementation}
            if cache is None:
                return ops.attention(
                    q, k, v, q_segments_bt=segment_ids, k_segments_bs=segment_ids, q_positions_bt=positions, k_positions_bs=positions, **options
                ), None
            segments_bt = cache.segments(segment_ids, x_btd)
            cache, seen = cache.extend(k, v, segments_bt, positions)
            o = ops.attention(
                q, seen.k_bsgk.astype(q.dtype), seen.v_bsgk.astype(q.dtype), q_order_bt=seen.q_order_bt, k_order_bs=seen.k_order_bs,
                q_segments_bt=segments_bt, k_segments_bs=seen.k_segments_bs, q_positions_bt=positions, k_positions_bs=seen.k_positions_bs, **options,
            )  # fmt: skip
            return jnp.where(seen.lost_bt[..., None, None], jnp.nan, o), cache

        own, across = (None, None) if state is None else state.tails
        self_bthk, own = attend("", x_btd, BlockLocal(self.block), own)
        cross_bthk, across = attend("context_", context_btd, BlockBefore(self.block), across)
        o_btm = rearrange(jnp.stack([self_bthk, cross_bthk], axis=-1), "b t h k n -> b t (h k n)")
        y_btd = Linear(width, ("heads", "width"), False, self.output_init, name="output")(o_btm)
        return y_btd, None if state is None else RecurrentState(memory, (own, across), now.last_b)
