"""Causal depthwise convolution over a few tokens, the companion of recurrent mixers (Poli et al. 2023, arXiv 2302.10866; Gu & Dao 2023, arXiv 2312.00752)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from effllm.ops.broadcast import to_last_axes


class Tail(NamedTuple):
    """The last W − 1 real inputs of each row, oldest first, with their segments; segment 0 marks a slot that nothing has filled."""

    x_bwd: jax.Array
    segments_bw: jax.Array

    @classmethod
    def empty(cls, batch: int, taps: int, width: int, dtype) -> "Tail":
        """Of a convolution with `taps` taps."""
        return cls(jnp.zeros((batch, taps - 1, width), dtype), jnp.zeros((batch, taps - 1), jnp.int32))


def short_conv(
    x_btd: jax.Array,
    filter_wd: jax.Array,
    bias_d: jax.Array | None = None,
    *,
    segments_bt: jax.Array | None = None,
    tail: Tail | None = None,
    activation: Callable[[jax.Array], jax.Array] | None = None,
) -> tuple[jax.Array, Tail]:
    """y_t = activation(Σ_w filter_w ⊙ x[t − (W−1) + w] + bias), and the tail that the next call takes. y is in x's dtype, sums in at least float32.

    Taps count the real tokens of t's own document: they skip padding (segment 0, whose own outputs mean nothing) and see nothing of another
    document. A document is a run of one segment: one that comes back after another is a new one. Before the first token lies `tail`, or nothing.
    segments_bt=None: no padding, and all tokens go on with the row's last document.
    Time O(T·W·D), tail (W−1)·D numbers; the backward pass recomputes from x.

    Raises ValueError for a filter of another width, for fewer than two taps, and for segments or a tail of another shape.
    """
    (batch, length, width), taps = x_btd.shape, filter_wd.shape[0]
    if filter_wd.shape[1] != width:
        raise ValueError(f"short_conv: the filter has {filter_wd.shape[1]} channels, its input {width}")
    if taps < 2:
        raise ValueError(f"short_conv: {taps} taps mix no tokens; give at least 2, or leave the convolution out")
    if segments_bt is not None and segments_bt.shape != (batch, length):
        raise ValueError(f"short_conv: segments_bt has shape {segments_bt.shape}, the input {(batch, length)}: give a segment for each token")
    if tail is None:
        tail = Tail.empty(batch, taps, width, x_btd.dtype)
    if tail.x_bwd.shape != (batch, taps - 1, width):
        raise ValueError(f"short_conv: the tail has shape {tail.x_bwd.shape}, this convolution needs {(batch, taps - 1, width)}: it is another model's state")

    if segments_bt is None:
        segment_b1 = jnp.maximum(tail.segments_bw[:, -1:], 1)
        segments_bs = jnp.concatenate([tail.segments_bw, jnp.broadcast_to(segment_b1, (batch, length))], axis=1)
        run_bw = _runs(jnp.concatenate([tail.segments_bw, segment_b1], axis=1))
        own_bw1 = (run_bw[:, :-1] == run_bw[:, -1:])[..., None]
        x_bsd = jnp.concatenate([jnp.where(own_bw1, tail.x_bwd, 0).astype(x_btd.dtype), x_btd], axis=1)
        after = Tail(x_bsd[:, length:].astype(tail.x_bwd.dtype), segments_bs[:, length:])
        return _conv(x_bsd, filter_wd, bias_d, None, taps, activation), after

    # Real tokens first, in order: then taps are plain shifts, and the tail ends where they end.
    order_bt = jnp.argsort(segments_bt == 0, axis=1, stable=True)
    place_bt = jnp.argsort(order_bt, axis=1)
    packed_bt = jnp.take_along_axis(segments_bt, order_bt, axis=1)
    x_bsd = jnp.concatenate([tail.x_bwd.astype(x_btd.dtype), _permute(x_btd, order_bt, place_bt)], axis=1)
    segments_bs = jnp.concatenate([tail.segments_bw, packed_bt], axis=1)
    y_btd = _permute(_conv(x_bsd, filter_wd, bias_d, _runs(segments_bs), taps, activation), place_bt, order_bt)
    last_bw = jnp.sum(segments_bt > 0, axis=1, dtype=jnp.int32)[:, None] + jnp.arange(taps - 1)
    after = Tail(jnp.take_along_axis(x_bsd, last_bw[..., None], axis=1).astype(tail.x_bwd.dtype), jnp.take_along_axis(segments_bs, last_bw, axis=1))
    return y_btd, after


def _runs(segments_bs):
    """The number of the run of one segment that each token is in."""
    return jnp.cumsum(jnp.pad(segments_bs[:, 1:] != segments_bs[:, :-1], ((0, 0), (1, 0))), axis=1, dtype=jnp.int32)


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(4, 5))
def _conv(x_bsd, filter_wd, bias_d, run_bs, taps, activation):
    """The convolution of S − (W−1) tokens, whose predecessors lie before them; taps see only their own run where runs are given."""
    length, wide = x_bsd.shape[1] - taps + 1, jnp.promote_types(x_bsd.dtype, jnp.float32)

    def tap(w):
        x_btd = x_bsd[:, w : w + length].astype(wide)
        if run_bs is not None and w < taps - 1:
            x_btd = jnp.where((run_bs[:, w : w + length] == run_bs[:, taps - 1 :])[..., None], x_btd, 0)
        return x_btd * to_last_axes(filter_wd[w], x_btd.shape)

    y_btd = sum(map(tap, range(taps)))
    y_btd = y_btd if bias_d is None else y_btd + to_last_axes(bias_d, y_btd.shape)
    return (y_btd if activation is None else activation(y_btd)).astype(x_bsd.dtype)


@jax.custom_vjp
def _permute(x_btd, order_bt, inverse_bt):
    """x[b, order[b, t]]; its gradient is gathered too (a scatter is slow)."""
    return jnp.take_along_axis(x_btd, order_bt[..., None], axis=1)


_permute.defvjp(
    lambda x_btd, order_bt, inverse_bt: (_permute(x_btd, order_bt, inverse_bt), inverse_bt),
    lambda inverse_bt, d_btd: (jnp.take_along_axis(d_btd, inverse_bt[..., None], axis=1), None, None),
)
