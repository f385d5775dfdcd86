"""What chunked recurrences share: cutting time into chunks, and decays between the tokens of a chunk by doubling.

Sums of log decays are never differences of long cumulative sums, which lose the small under the large (and overflow where exp(−cumsum) stands
alone): blocks of 1, 2, 4, … tokens are joined, each new exponent being (what row i has decayed since its half began) + (what will decay after
j until its half ends), a sum of numbers ≤ 0. Costs O(log C) additions a token and no cumulative sum.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

Pairs = Sequence[tuple[jax.Array, jax.Array]]


class Marks(NamedTuple):
    """Which tokens of a chunk belong together; all (N, B, 1, C), counting the documents that began since time 0."""

    own: jax.Array
    before: jax.Array  # (N, B, 1, 1) the count just before the chunk

    @property
    def same(self) -> jax.Array:
        """(N, B, 1, C, C) whether tokens i and j are of one document."""
        return self.own[..., :, None] == self.own[..., None, :]

    @property
    def reached(self) -> jax.Array:
        """(N, B, 1, C, 1) whether token i is of the document that was there before the chunk."""
        return (self.own == self.before)[..., None]

    @property
    def remains(self) -> jax.Array:
        """(N, B, 1, C, 1) whether token j is of the document that is there after the chunk."""
        return (self.own == self.own[..., -1:])[..., None]

    @property
    def kept(self) -> jax.Array:
        """(N, B, 1, 1, 1) whether what was there before the chunk is there after it."""
        return (self.own[..., -1:] == self.before)[..., None]


class Decay(NamedTuple):
    """Sums of log decays within a chunk, (…, C, K), or (…, C, 1) where a head has one: over the tokens up to i with (or without) its own, over
    those after j, and over all."""

    until: jax.Array
    after: jax.Array
    whole: jax.Array  # (…, 1, K)


def chunk_size(length: int, chunk: int) -> int:
    """The power of two that chunks have: the one given, or a smaller one that holds all of a short text."""
    if chunk < 1 or chunk & (chunk - 1):
        raise ValueError(f"chunk={chunk} must be a power of two")
    return min(chunk, 1 << (length - 1).bit_length())


def start(state_bhkv: jax.Array | None, shape: tuple[int, ...], wide: jnp.dtype, op: str) -> jax.Array:
    """The state before the first token, zero where none is given. Raises ValueError for one of another shape."""
    if state_bhkv is None:
        return jnp.zeros(shape, wide)
    if state_bhkv.shape != shape:
        raise ValueError(f"{op}: the state has shape {state_bhkv.shape}, these keys and values need {shape}: it is another model's state")
    return state_bhkv.astype(wide)


def widened(log_decay: jax.Array | None, shape: tuple[int, ...], wide: jnp.dtype, op: str) -> jax.Array | None:
    """Log decays (H,), (B, T, H) or (B, T, H, K) as (B or 1, T, H, K or 1), for keys of this shape (B, T, H, K)."""
    if log_decay is None:
        return None
    batch, length, heads, width = shape
    if log_decay.shape not in ((heads,), (batch, length, heads), (batch, length, heads, width)):
        raise ValueError(f"{op}: log_decay has shape {log_decay.shape}, it must be {(heads,)}, {(batch, length, heads)} or {shape}")
    if jnp.finfo(log_decay.dtype).bits < 32:
        raise ValueError(f"{op}: log_decay is {log_decay.dtype}; sums of decays need float32, where their product is made")
    if log_decay.ndim == 1:
        log_decay = jnp.broadcast_to(log_decay, (1, length, heads))
    return (log_decay if log_decay.ndim == 4 else log_decay[..., None]).astype(wide)


def cut(x_bth: jax.Array, size: int) -> jax.Array:
    """(B, T, H, …) as chunks (N, B, H, C, …), the last one filled with zeros."""
    missing = -x_bth.shape[1] % size
    x_bth = jnp.pad(x_bth, ((0, 0), (0, missing), *((0, 0),) * (x_bth.ndim - 2))) if missing else x_bth
    x_bnch = x_bth.reshape(x_bth.shape[0], -1, size, *x_bth.shape[2:])
    return jnp.moveaxis(x_bnch, (1, 3), (0, 2))


def join(x_nbhcv: jax.Array, length: int) -> jax.Array:
    """Chunks (N, B, H, C, V) as (B, T, H, V)."""
    x_bnchv = jnp.moveaxis(x_nbhcv, (0, 2), (1, 3))
    return x_bnchv.reshape(x_bnchv.shape[0], -1, *x_bnchv.shape[3:])[:, :length]


def mark(reset_bt: jax.Array | None, size: int) -> Marks | None:
    """The marks of all chunks; None where nothing is reset. What fills the last chunk belongs to its last document."""
    if reset_bt is None:
        return None
    missing = -reset_bt.shape[1] % size
    count_bt = jnp.cumsum(jnp.pad(reset_bt, ((0, 0), (0, missing))), axis=1, dtype=jnp.int32)
    own = cut(count_bt[:, :, None], size)
    return Marks(own, jnp.concatenate([jnp.zeros_like(own[:1, ..., -1:]), own[:-1, ..., -1:]]))


def _pairs(x: jax.Array, s: int) -> tuple[jax.Array, jax.Array]:
    """The first and second halves (…, C/2s, s, K) of every block of 2s tokens of (…, C, K)."""
    x = x.reshape(*x.shape[:-2], -1, 2, s, x.shape[-1])
    return x[..., 0, :, :], x[..., 1, :, :]


def _blocks(first: jax.Array, second: jax.Array) -> jax.Array:
    """The inverse of `_pairs`."""
    x = jnp.stack([first, second], axis=-3)
    return x.reshape(*x.shape[:-4], -1, x.shape[-1])


def _square(upper_left: jax.Array, lower_left: jax.Array, lower_right: jax.Array, empty: float) -> jax.Array:
    """Blocks [[upper left, empty], [lower left, lower right]]."""
    top = jnp.concatenate([upper_left, jnp.full_like(lower_left, empty)], axis=-1)
    return jnp.concatenate([top, jnp.concatenate([lower_left, lower_right], axis=-1)], axis=-2)


def scores(pairs: Pairs, log_decay: jax.Array | None, inclusive: bool = True) -> tuple[list[jax.Array], Decay | None]:
    """([Σ_k q_ik k_jk exp(Σ of log decays between j and i) for j ≤ i (j < i where not inclusive) and else 0, for each pair (q, k)], the sums
    within the whole chunk).

    Scores are (…, C, C) in at least float32. log_decay is (…, C, K), (…, C, 1) where all channels decay alike, or None where none does. Where
    not inclusive, the decay between j and i leaves out i's own.
    """
    q, _ = pairs[0]
    wide, size = jnp.promote_types(q.dtype, jnp.float32), q.shape[-2]

    def product(q, k):
        return jnp.einsum("...ik,...jk->...ij", q, k, preferred_element_type=wide)

    if log_decay is None:
        return [jnp.tril(product(q, k), 0 if inclusive else -1) for q, k in pairs], None
    alike = log_decay.shape[-1] == 1
    # By blocks of s tokens: the exponents where channels decay alike, to be raised at the end; else the scores themselves.
    if alike:
        squares = [jnp.full((*log_decay.shape[:-1], 1, 1), 0.0 if inclusive else -jnp.inf, wide)]
    else:
        squares = [inclusive * jnp.sum(q.astype(wide) * k, axis=-1)[..., None, None] for q, k in pairs]
    until, after, whole = log_decay if inclusive else jnp.zeros_like(log_decay), jnp.zeros_like(log_decay), log_decay
    s = 1
    while s < size:
        (u0, u1), (a0, a1), (w0, w1) = _pairs(until, s), _pairs(after, s), _pairs(whole, 1)
        if alike:
            lows = [u1 + jnp.swapaxes(a0, -1, -2)]
        else:
            since, left = jnp.exp(u1).astype(q.dtype), jnp.exp(a0).astype(q.dtype)
            lows = [product(_pairs(q, s)[1] * since, _pairs(k, s)[0] * left) for q, k in pairs]
        empty = -jnp.inf if alike else 0.0
        squares = [_square(square[..., ::2, :, :], low, square[..., 1::2, :, :], empty) for square, low in zip(squares, lows, strict=True)]
        until, after, whole = _blocks(u0, u1 + w0), _blocks(a0 + w1, a1), (w0 + w1)[..., 0, :]
        s *= 2
    squares = [square[..., 0, :, :] for square in squares]
    if alike:
        squares = [product(q, k) * jnp.exp(squares[0]) for q, k in pairs]
    return squares, Decay(until, after, whole)


@jax.custom_jvp
def unit_inverse(lower: jax.Array) -> jax.Array:
    """(I + N)⁻¹ for the part N below the diagonal of (…, C, C), by doubling: [[A, 0], [B, D]]⁻¹ = [[A⁻¹, 0], [−D⁻¹ B A⁻¹, D⁻¹]].

    The products of a triangular solve, as products of matrices, which every mesh and device knows to split; full precision.
    """
    size, s = lower.shape[-1], 1
    inverse = jnp.ones((*lower.shape[:-1], 1, 1), lower.dtype)
    while s < size:
        blocks = lower.reshape(*lower.shape[:-2], size // (2 * s), 2 * s, size // (2 * s), 2 * s)[..., s:, :, :s]
        low = jnp.moveaxis(jnp.diagonal(blocks, axis1=-4, axis2=-2), -1, -3)
        first, second = inverse[..., ::2, :, :], inverse[..., 1::2, :, :]
        low = -jnp.matmul(jnp.matmul(second, low, precision="highest"), first, precision="highest")
        inverse = _square(first, low, second, 0.0)
        s *= 2
    return inverse[..., 0, :, :]


@unit_inverse.defjvp
def _(primals, tangents):
    inverse = unit_inverse(*primals)
    change = jnp.matmul(jnp.matmul(inverse, jnp.tril(tangents[0], -1), precision="highest"), inverse, precision="highest")
    return inverse, -change
