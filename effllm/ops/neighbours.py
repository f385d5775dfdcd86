"""Convolution over both neighbours of a token within its document."""

import jax
import jax.numpy as jnp

from effllm.ops.documents import compact


def neighbours(x_bth: jax.Array, filter_wh: jax.Array, segments_bt: jax.Array | None) -> jax.Array:
    """y_t = Σ_w filter_w · x_(t + w − W//2) over the real tokens of t's document, whatever padding lies between them; (B, T, H, …).

    filter (W, H) is per head (or channel); x may have further axes, which it is the same for. O(T·W) for each number.
    """
    if segments_bt is not None:
        token_bt, place_bt = compact(segments_bt > 0)
        x_bth, segments_bt = (_take(a, token_bt) for a in (x_bth, segments_bt))
    taps, total = filter_wh.shape[0], 0
    for tap in range(taps):
        behind = taps // 2 - tap
        part = _shifted(x_bth, behind)
        if segments_bt is not None:
            same_bt = (segments_bt > 0) & (segments_bt == _shifted(segments_bt, behind))
            part = jnp.where(same_bt.reshape(*same_bt.shape, *[1] * (x_bth.ndim - 2)), part, 0)
        total = total + part * filter_wh[tap].reshape(-1, *[1] * (x_bth.ndim - 3)).astype(x_bth.dtype)
    return total if segments_bt is None else _take(total, place_bt)


def _take(x_bt: jax.Array, index_bt: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_bt, index_bt.reshape(*index_bt.shape, *[1] * (x_bt.ndim - 2)), axis=1)


def _shifted(x_bt: jax.Array, behind: int) -> jax.Array:
    """x_(t − behind), zero beyond the ends."""
    length = x_bt.shape[1]
    padded = jnp.pad(x_bt, ((0, 0), (max(behind, 0), max(-behind, 0)), *[(0, 0)] * (x_bt.ndim - 2)))
    return jax.lax.slice_in_dim(padded, max(-behind, 0), max(-behind, 0) + length, axis=1)
