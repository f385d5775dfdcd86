"""What recurrent mixers share: where documents begin, what padding is, and the state that decoding carries."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from flax import struct

from effllm.nn.linear import Linear
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.rebuild import adopt
from effllm.nn.short_conv import ShortConv
from effllm.shard import axis_size, fits, shard


class RecurrentState(struct.PyTreeNode):
    """A recurrent mixer's state: its accumulators (at least float32), the tails of its short convolutions, and each row's last segment (0: none yet)."""

    memory: Any
    tails: Any
    segment_b: jax.Array

    @classmethod
    def empty(cls, batch: int, memory: Any, tails: Any = ()) -> "RecurrentState":
        return cls(memory, tails, jnp.zeros((batch,), jnp.int32))


class Documents(NamedTuple):
    """How a call's tokens fall into documents. None where nothing needs to be done: no padding, no document begins.

    real_bt (B, T) marks what is not padding; reset_bt the real tokens before which everything is forgotten, the state included: those whose
    document differs from that of the real token before them. A row that holds nothing yet is not reset. last_b (B,) is the segment of each
    row's last real token after the call.
    """

    segments_bt: jax.Array | None
    real_bt: jax.Array | None
    reset_bt: jax.Array | None
    last_b: jax.Array | None


def check_segments(segment_ids: jax.Array | None, shape: tuple[int, int]) -> None:
    """Raise ValueError where there are segments, but not one for each of (B, T) = shape tokens."""
    if segment_ids is not None and segment_ids.shape != shape:
        raise ValueError(f"segment_ids has shape {segment_ids.shape}, the input {shape}: give a segment for each token")


def documents(segment_ids: jax.Array | None, state: RecurrentState | None, shape: tuple[int, int] | None = None) -> Documents:
    """The documents of a call of (B, T) = shape tokens with these segments after this state; segment_ids=None goes on with each row's last document.

    Raises ValueError for segments of another shape, and for a state of another batch size. shape=None takes that of the segments.
    """
    if shape is None and segment_ids is not None:
        shape = segment_ids.shape
    if shape is not None:
        check_segments(segment_ids, shape)
        check_rows(state, shape[0])
    if segment_ids is None:
        return Documents(None, None, None, None if state is None else jnp.maximum(state.segment_b, 1))
    batch, length = segment_ids.shape
    before_b1 = jnp.zeros((batch, 1), segment_ids.dtype) if state is None else state.segment_b[:, None]
    real_bt = segment_ids > 0
    # The segment of the last real token up to and with t; column 0 is the state's.
    seen_bs = jnp.concatenate([before_b1, segment_ids], axis=1)
    newest_bs = jax.lax.cummax(jnp.where(seen_bs > 0, jnp.arange(length + 1), 0), axis=1)
    latest_bs = jnp.take_along_axis(seen_bs, newest_bs, axis=1)
    reset_bt = real_bt & (latest_bs[:, :-1] > 0) & (latest_bs[:, :-1] != segment_ids)
    return Documents(segment_ids, real_bt, reset_bt, latest_bs[:, -1])


def check_rows(state: RecurrentState | None, batch: int) -> None:
    """Raise ValueError for a state of another batch size."""
    if state is not None and state.segment_b.shape != (batch,):
        raise ValueError(f"the state holds {state.segment_b.shape[0]} rows, the input has {batch}: it is another model's state; init_state(batch={batch}, …)")


def begins(now: Documents, state: RecurrentState | None, shape: tuple[int, int]) -> jax.Array:
    """(B, T) = shape, which tokens are the first real ones of their documents, whatever positions say."""
    real_bt = jnp.ones(shape, bool) if now.real_bt is None else now.real_bt
    first_bt = real_bt & (jnp.cumsum(real_bt, axis=1) == 1)
    first_bt = first_bt if state is None else first_bt & (state.segment_b == 0)[:, None]
    return first_bt if now.reset_bt is None else first_bt | now.reset_bt


def head_width(mixer: nn.Module, width: int) -> int:
    """The head_dim of a mixer with fields `heads` and `head_dim`. Raises ValueError where they do not divide the width or are below 1."""
    at_least(mixer, 1, "heads", "head_dim")
    if mixer.head_dim is None and width % mixer.heads:
        raise ValueError(f"{type(mixer).__name__}: width={width} is not a multiple of heads={mixer.heads}; change heads or give head_dim")
    return width // mixer.heads if mixer.head_dim is None else mixer.head_dim


class Project:
    """project(name, heads, dim) -> (B, T, heads, dim): linear maps of a mixer's input to heads, each through the mixer's short convolution where
    it has one. `tails` collects what the state keeps of the convolutions.
    """

    def __init__(self, mixer: Mixer, x_btd: jax.Array, found: Documents, state: RecurrentState | None, conv: ShortConv | None):
        self.mixer, self.x_btd, self.found, self.conv = mixer, x_btd, found, conv
        self.before, self.tails = None if state is None else state.tails, {}

    def __call__(self, name: str, heads: int, dim: int, *, conv: bool = True, shared: bool = False) -> jax.Array:
        """`shared` heads, of which several query heads use one, are replicated where the mesh does not divide them."""
        axis = fits("heads", heads)
        if axis is None and not shared:
            raise ValueError(f"{type(self.mixer).__name__}: {heads} heads are not divisible by the mesh's tensor axis of {axis_size('heads')}")
        y_btf = Linear(heads * dim, ("width", axis), name=name)(self.x_btd)
        if conv and self.conv is not None:
            short = adopt(self.mixer, self.conv.clone(axis=axis), f"{name}_conv")
            y_btf, self.tails[name] = short(y_btf, self.found.segments_bt, None if self.before is None else self.before[name])
        return shard(rearrange(y_btf, "b t (h k) -> b t h k", h=heads), "batch", "length", axis, None)


def tails(conv: ShortConv | None, batch: int, dtype: Any, **widths: int) -> dict[str, Any]:
    """The empty tails of the convolutions behind these projections."""
    return {} if conv is None else {name: conv.init_tail(batch, width, dtype) for name, width in widths.items()}


def linear_attention_flops(length: int, chunk: int | None, heads: int, key: int, value: int) -> float:
    """Forward FLOPs per token of ops.linear_attention by chunks: the causal half within a chunk, what it reads from S and what it adds.
    A chunk of None counts as one of 64 tokens, whatever is quickest here."""
    return heads * (min(length, chunk or 64) * (key + value) + 4.0 * key * value)


def delta_rule_flops(length: int, chunk: int | None, heads: int, key: int, value: int) -> float:
    """Forward FLOPs per token of ops.delta_rule by chunks: those of linear attention, the keys' overlap and its triangular solve, and what S
    already held."""
    size = min(length, chunk or 64)
    return linear_attention_flops(length, chunk, heads, key, value) + heads * (size * (2 * key + value) + size**2 / 3 + 2.0 * key * value)
