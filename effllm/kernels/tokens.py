"""A recurrence within a chunk, token by token, for states that are small beside a chunk's work: element-wise over channels, which programs divide."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from effllm.kernels.tiles import filled, width

Tiles = tuple[jax.Array, ...]
Token = Callable[[Tiles, Tiles, Tiles], tuple[Tiles, Tiles]]
WIDEST = 128


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def over_tokens(token: Token, fixed: Tiles, carry: Tiles, chunk: Tiles) -> tuple[Tiles, Tiles]:
    """(carry after the chunk, tiles of what the tokens gave) of `token(fixed, carry, rows) -> (carry, rows)` over the rows (1, X) of tiles (C, X).

    Only what `token` is given is kept: the backward pass goes from the last token to the first, and to each once more from the first, so that no state of a token
    is stored and none is found by division. C times the time of `token` forward, C²/2 backward: for chunks of some 16 tokens.
    """
    return _forward(token, fixed, carry, chunk)[0]


def _row(tile, t):
    """Row t of a tile, (1, X): compilers slice no values."""
    return jnp.sum(jnp.where(jax.lax.broadcasted_iota(jnp.int32, tile.shape, 0) == t, tile, 0), axis=0, keepdims=True)


def _put(tile, t, row):
    return jnp.where(jax.lax.broadcasted_iota(jnp.int32, tile.shape, 0) == t, row, tile)


def _rows(tiles, t):
    return tuple(_row(tile, t) for tile in tiles)


def _forward(token, fixed, carry, chunk):
    def body(t, held):
        now, tiles = held
        now, rows = token(fixed, now, _rows(chunk, t))
        return tuple(now), tuple(_put(tile, t, row) for tile, row in zip(tiles, rows))

    size = len(chunk[0])
    _, rows = jax.eval_shape(lambda: token(fixed, carry, _rows(chunk, 0)))
    empty = tuple(jnp.zeros((size, row.shape[1]), row.dtype) for row in rows)
    return jax.lax.fori_loop(0, size, body, (tuple(carry), empty)), (fixed, carry, chunk)


def _backward(token, residuals, gradients):
    fixed, carry, chunk = residuals
    d_last, d_outs = gradients
    size = len(chunk[0])

    def body(n, held):
        d_now, d_fixed, d_chunk = held
        t = size - 1 - n
        before = jax.lax.fori_loop(0, t, lambda s, now: tuple(token(fixed, now, _rows(chunk, s))[0]), tuple(carry))
        _, pull = jax.vjp(token, fixed, before, _rows(chunk, t))
        more, d_before, d_rows = pull((tuple(d_now), _rows(d_outs, t)))
        return d_before, tuple(d + m for d, m in zip(d_fixed, more)), tuple(_put(d, t, row) for d, row in zip(d_chunk, d_rows))

    start = tuple(d_last), *(tuple(jnp.zeros(x.shape, x.dtype) for x in part) for part in (fixed, chunk))
    d_first, d_fixed, d_chunk = jax.lax.fori_loop(0, size, body, start)
    return d_fixed, d_first, d_chunk


over_tokens.defvjp(_forward, _backward)


def channels_first(x_btd: jax.Array, time: int, value: float = 0) -> jax.Array:
    """(B, T, D) as (B·D/W, time, W): a program's part is W channels, at most 128, filled up with `value`."""
    batch, _, size = x_btd.shape
    wide = min(width(size), WIDEST)
    x_btd = filled(x_btd, time, -(-size // wide) * wide, value=value)
    return jnp.moveaxis(x_btd.reshape(batch, time, -1, wide), 2, 1).reshape(-1, time, wide)


def from_channels(x: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """(B·D/W, time, W) as (B, T, D), the inverse of `channels_first`."""
    batch, length, size = shape
    x_bptw = x.reshape(batch, -1, *x.shape[1:])
    return jnp.moveaxis(x_bptw, 1, 2).reshape(batch, x.shape[1], -1)[:, :length, :size]
