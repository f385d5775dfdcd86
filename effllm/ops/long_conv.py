"""Causal convolution with a filter as long as the text (Romero et al. 2021, arXiv 2102.02611; Poli et al. 2023, arXiv 2302.10866)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

IMPLEMENTATIONS = ("reference", "blocked")
BASE, DIRECT = 8, 64  # blocks up to BASE tokens are summed tap by tap, up to DIRECT as products with Toeplitz matrices, larger ones by FFT


class Past(NamedTuple):
    """What streaming keeps: the real tokens of each row in order, the number of each one's document in the row, how many there are."""

    x_bsd: jax.Array
    run_bs: jax.Array
    length_b: jax.Array

    @classmethod
    def empty(cls, batch: int, slots: int, width: int, dtype) -> "Past":
        return cls(jnp.zeros((batch, slots, width), dtype), jnp.zeros((batch, slots), jnp.int32), jnp.zeros((batch,), jnp.int32))


def long_conv(
    x_btd: jax.Array,
    filter_ld: jax.Array,
    past: Past | None = None,
    *,
    real_bt: jax.Array | None = None,
    reset_bt: jax.Array | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, Past | None]:
    """y_t = Σ_j filter_j ⊙ x_{t−j} over the real tokens of t's document, 0 ≤ j < L, and the past after them. y in x's dtype, sums at least float32.

    A document begins where reset_bt is true; real_bt is false at padding, which lags skip and whose own y means nothing. With a `past` the
    first document goes on from it; a token beyond its slots gives NaN. One token then costs O(S·D), more cost one pass over all slots.

    implementation: "reference" sums over all T × T pairs; "blocked" (the default) halves the text again and again, the left half of each
    piece acting on its right half: O(T log² T · D). No sum ever touches what it must not see, so that later tokens and other documents have
    exactly no influence; a single FFT over the text leaks their rounding.

    Raises ValueError for a filter of other channels, one with more taps than the past has slots, and an unknown implementation.
    """
    (batch, length, width), taps = x_btd.shape, filter_ld.shape[0]
    if filter_ld.shape[1] != width:
        raise ValueError(f"long_conv: the filter has {filter_ld.shape[1]} channels, its input {width}")
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"long_conv has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
    if past is not None and past.x_bsd.shape[::2] != (batch, width):
        raise ValueError(f"long_conv: the past is of {past.x_bsd.shape[::2]} rows and channels, the input of {(batch, width)}: it is another model's state")
    if past is not None and taps > past.run_bs.shape[1]:
        raise ValueError(f"long_conv: a filter of {taps} taps is longer than its buffer of {past.run_bs.shape[1]} slots; make the state for {taps} tokens")
    wide = jnp.promote_types(x_btd.dtype, jnp.float32)
    real_bt = jnp.ones((batch, length), bool) if real_bt is None else real_bt
    order_bt = jnp.cumsum(real_bt, axis=1, dtype=jnp.int32) - 1
    run_bt = jnp.zeros((batch, length), jnp.int32) if reset_bt is None else jnp.cumsum(reset_bt & real_bt, axis=1, dtype=jnp.int32)
    filter_ld = filter_ld.astype(wide)
    if past is None and implementation == "reference":
        return _all_pairs(x_btd.astype(wide), filter_ld, jnp.where(real_bt, run_bt, -1), order_bt).astype(x_btd.dtype), None
    new = put(Past.empty(batch, length, width, x_btd.dtype) if past is None else past, x_btd, real_bt, order_bt, run_bt)
    place_bt = order_bt if past is None else order_bt + past.length_b[:, None]
    if past is not None and length == 1:
        lag_bs = place_bt - jnp.arange(new.run_bs.shape[1])
        own_bs = (lag_bs >= 0) & (lag_bs < taps) & (new.run_bs == jnp.take_along_axis(new.run_bs, place_bt, axis=1))
        taps_bsd = jnp.where(own_bs[..., None], filter_ld[jnp.clip(lag_bs, 0, taps - 1)], 0)
        y_btd = jnp.sum(taps_bsd * new.x_bsd.astype(wide), axis=1, keepdims=True)
    else:
        y_btd = jnp.take_along_axis(_convolve(new, filter_ld, implementation), jnp.maximum(place_bt, 0)[..., None], axis=1)
    if past is None:
        return y_btd.astype(x_btd.dtype), None
    return jnp.where((place_bt < new.run_bs.shape[1])[..., None], y_btd, jnp.nan).astype(x_btd.dtype), new


def put(past: Past, x_btd: jax.Array, real_bt: jax.Array, order_bt: jax.Array, run_bt: jax.Array) -> Past:
    """The past with these tokens behind it; padding, and what lies beyond the last slot, is not written."""
    rows_b1, slots = jnp.arange(x_btd.shape[0])[:, None], past.run_bs.shape[1]
    last_b1 = jnp.take_along_axis(past.run_bs, jnp.clip(past.length_b - 1, 0, slots - 1)[:, None], axis=1)
    place_bt = jnp.where(real_bt, order_bt + past.length_b[:, None], slots)
    return Past(
        past.x_bsd.at[rows_b1, place_bt].set(x_btd.astype(past.x_bsd.dtype), mode="drop"),
        past.run_bs.at[rows_b1, place_bt].set(last_b1 + run_bt, mode="drop"),
        past.length_b + order_bt[:, -1] + 1,
    )


def _all_pairs(x_btd, filter_ld, run_bt, order_bt):
    lag_bts = order_bt[:, :, None] - order_bt[:, None]
    seen_bts = (lag_bts >= 0) & (lag_bts < filter_ld.shape[0]) & (run_bt[:, :, None] == run_bt[:, None])
    return jnp.einsum("btsd,bsd->btd", jnp.where(seen_bts[..., None], filter_ld[jnp.clip(lag_bts, 0, filter_ld.shape[0] - 1)], 0), x_btd)


def _convolve(past: Past, filter_ld, implementation):
    written_bs = jnp.arange(past.run_bs.shape[1]) < past.length_b[:, None]
    x_bsd = jnp.where(written_bs[..., None], past.x_bsd, 0).astype(filter_ld.dtype)
    if implementation == "reference":
        order_bs = jnp.broadcast_to(jnp.arange(past.run_bs.shape[1]), past.run_bs.shape)
        return _all_pairs(x_bsd, filter_ld, past.run_bs, order_bs)
    return convolve(x_bsd, filter_ld, past.run_bs)


def convolve(x_btd: jax.Array, filter_ld: jax.Array, run_bt: jax.Array) -> jax.Array:
    """The blocked form for rows without padding, whose documents are the runs of equal numbers."""
    batch, length, width = x_btd.shape

    def cut(x, size):
        """(B, pieces, size, …): pieces of `size` tokens, the last one filled with zeros."""
        x = jnp.pad(x, ((0, 0), (0, -length % size), *((0, 0),) * (x.ndim - 2)))
        return x.reshape(batch, -1, size, *x.shape[2:])

    def taps(count):
        return jnp.pad(filter_ld[:count], ((0, max(0, count - filter_ld.shape[0])), (0, 0)))

    def joined(y_bcsd):
        return y_bcsd.reshape(batch, -1, width)[:, :length]

    base = min(BASE, length)
    x_bcsd, run_bcs = cut(x_btd, base), cut(run_bt, base)
    first_ld = taps(base)

    def tap(lag):
        same_bcs = run_bcs[:, :, lag:] == run_bcs[:, :, : base - lag]
        return jnp.pad(jnp.where(same_bcs[..., None], x_bcsd[:, :, : base - lag], 0), ((0, 0), (0, 0), (lag, 0), (0, 0))) * first_ld[lag]

    y_btd, size = joined(sum(map(tap, range(base)))), base
    while size < length:
        x_bcsd, run_bcs = cut(x_btd, 2 * size), cut(run_bt, 2 * size)
        left, right = run_bcs[:, :, :size], run_bcs[:, :, size:]
        # Documents are contiguous: the only one on both sides is the last of the left and the first of the right.
        from_left = jnp.where((left == left[:, :, -1:])[..., None], x_bcsd[:, :, :size], 0)
        if size <= DIRECT:
            lags_ts = size + jnp.arange(size)[:, None] - jnp.arange(size)
            to_right = jnp.einsum("tsd,bcsd->bctd", taps(2 * size)[lags_ts], from_left)
        else:
            spectrum = jnp.fft.rfft(taps(2 * size), axis=0) * jnp.fft.rfft(from_left, 2 * size, axis=2)
            to_right = jnp.fft.irfft(spectrum, 2 * size, axis=2)[:, :, size:]
        to_right = jnp.where((right == left[:, :, -1:])[..., None], to_right, 0)
        y_btd = y_btd + joined(jnp.concatenate([jnp.zeros_like(to_right), to_right], axis=2))
        size *= 2
    return y_btd
