"""What chunked recurrences share: cutting time into parts and chunks, decays between the tokens of a chunk, and inverses of triangles.

Sums of log decays are never differences of long cumulative sums, which lose the small under the large (and overflow where exp(−cumsum) stands
alone), but sums of numbers ≤ 0. Where all channels decay alike, all of them are one product with a triangle of ones. Else blocks of 1, 2, 4, …
tokens are joined, each new exponent being (what row i has decayed since its half began) + (what will decay after j until its half ends).
"""

from collections.abc import Callable, Sequence
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
    if chunk is None or chunk < 1 or chunk & (chunk - 1):
        raise ValueError(f"chunk={chunk} must be a power of two")
    return min(chunk, 1 << (length - 1).bit_length())


def check(op: str, q_bthk: jax.Array, v_bthv: jax.Array, **like_q: jax.Array) -> None:
    """Raise ValueError where keys and their like do not have the queries' shape, or values not their rows, tokens and heads."""
    if v_bthv.shape[:-1] != q_bthk.shape[:-1]:
        raise ValueError(f"{op}: v has shape {v_bthv.shape}, q {q_bthk.shape}: give values for the same rows, tokens and heads")
    for name, x_bthk in like_q.items():
        if x_bthk.shape != q_bthk.shape:
            raise ValueError(f"{op}: {name} has shape {x_bthk.shape}, q {q_bthk.shape}: they must be equal; repeat heads that are shared")


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


def by_parts(part: Callable, state_bhkv: jax.Array, arrays: Sequence[jax.Array | None], size: int, together: int) -> tuple[jax.Array, jax.Array]:
    """(o (B, T, H, V), the last state) of part(state, *arrays) -> (o, state), run over one part of time of the arrays (B or 1, T, …) after
    another.

    A part has as many whole chunks as make about `together` matrices, one for each chunk, row and head, and at least one chunk: what is made
    for all of them at once stays small, whatever the length. Parts are as even as they can be. Raises ValueError where `together` is below 1.
    """
    if together < 1:
        raise ValueError(f"together={together} must be at least 1: the matrices that a part of time has")
    (batch, heads), length = state_bhkv.shape[:2], arrays[0].shape[1]
    count = -(-length // size)
    parts = min(count, -(-count * batch * heads // together))
    if parts == 1:
        return part(state_bhkv, *arrays)
    time = -(-count // parts) * size
    parts = -(-length // time)

    def parted(x):
        x = jnp.pad(x, ((0, 0), (0, parts * time - length), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(x.shape[0], parts, time, *x.shape[2:]), 1, 0)

    state_bhkv, o = jax.lax.scan(lambda state, now: part(state, *now)[::-1], state_bhkv, jax.tree.map(parted, tuple(arrays)))
    return jnp.moveaxis(o, 0, 1).reshape(batch, parts * time, *o.shape[3:])[:, :length], state_bhkv


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


def _square(upper_left: jax.Array, lower_left: jax.Array, lower_right: jax.Array) -> jax.Array:
    """Blocks [[upper left, 0], [lower left, lower right]]."""
    top = jnp.concatenate([upper_left, jnp.zeros_like(lower_left)], axis=-1)
    return jnp.concatenate([top, jnp.concatenate([lower_left, lower_right], axis=-1)], axis=-2)


def scores(pairs: Pairs, log_decay: jax.Array | None, inclusive: bool = True) -> tuple[list[jax.Array], Decay | None]:
    """([Σ_k q_ik k_jk exp(Σ of log decays between j and i) for j ≤ i (j < i where not inclusive) and else 0, for each pair (q, k)], the sums
    within the whole chunk).

    Scores are (…, C, C) in at least float32. log_decay is (…, C, K), (…, C, 1) where all channels decay alike, or None where none does. Where
    not inclusive, the decay between j and i leaves out i's own.
    """
    if log_decay is None:
        return [jnp.tril(_scores(q, k), 0 if inclusive else -1) for q, k in pairs], None
    return (_alike if log_decay.shape[-1] == 1 else _by_channel)(pairs, log_decay, inclusive)


def _scores(q, k):
    return jnp.einsum("...ik,...jk->...ij", q, k, preferred_element_type=jnp.promote_types(q.dtype, jnp.float32))


def _alike(pairs, log_decay, inclusive):
    """Row i of (what rows add up) @ (log decays below the diagonal) is Σ of what decays after j until i."""
    size = log_decay.shape[-2]
    log_decay = jnp.maximum(log_decay, jnp.finfo(log_decay.dtype).min / size)  # in a product 0 · −∞ would not be 0
    earlier = jnp.tri(size, size, -1, dtype=bool)
    met = jnp.tri(size, size, 0 if inclusive else -1, dtype=bool)
    between = jnp.matmul(met.astype(log_decay.dtype), jnp.where(earlier, log_decay, 0), precision="highest")
    first = log_decay[..., :1, :]
    until = between[..., :, :1] + (first if inclusive else jnp.where(jnp.arange(size)[:, None] > 0, first, 0))
    last = log_decay[..., -1:, :]
    after = jnp.swapaxes(between[..., -1:, :], -1, -2)
    whole = until[..., -1:, :]
    if not inclusive:
        after, whole = after + jnp.where(jnp.arange(size)[:, None] < size - 1, last, 0), whole + last
    decayed = jnp.exp(jnp.where(met, between, -jnp.inf))
    return [_scores(q, k) * decayed for q, k in pairs], Decay(until, after, whole)


def _by_channel(pairs, log_decay, inclusive):
    q, _ = pairs[0]
    wide, size, s = jnp.promote_types(q.dtype, jnp.float32), q.shape[-2], 1
    squares = [inclusive * jnp.sum(q.astype(wide) * k, axis=-1)[..., None, None] for q, k in pairs]
    until, after, whole = log_decay if inclusive else jnp.zeros_like(log_decay), jnp.zeros_like(log_decay), log_decay
    while s < size:
        (u0, u1), (a0, a1), (w0, w1) = _pairs(until, s), _pairs(after, s), _pairs(whole, 1)
        since, left = jnp.exp(u1).astype(q.dtype), jnp.exp(a0).astype(q.dtype)
        lows = [_scores(_pairs(q, s)[1] * since, _pairs(k, s)[0] * left) for q, k in pairs]
        squares = [_square(square[..., ::2, :, :], low, square[..., 1::2, :, :]) for square, low in zip(squares, lows, strict=True)]
        until, after, whole = _blocks(u0, u1 + w0), _blocks(a0 + w1, a1), (w0 + w1)[..., 0, :]
        s *= 2
    return [square[..., 0, :, :] for square in squares], Decay(until, after, whole)


@jax.custom_jvp
def unit_inverse(lower: jax.Array) -> jax.Array:
    """(I + N)⁻¹ for the part N below the diagonal of (…, C, C), by doubling: [[A, 0], [B, D]]⁻¹ = [[A⁻¹, 0], [−D⁻¹ B A⁻¹, D⁻¹]].

    The products of a triangular solve, as products of matrices, which every mesh and device knows to split; full precision. Within blocks of
    8 tokens they are products of whole blocks, X − X B X for the X that is inverted so far: smaller ones cost more to call than to compute.
    """
    size = lower.shape[-1]
    s = min(8, size)

    def blocks(s, below):
        """(…, C/s, s, s) on the diagonal; (…, C/2s, s, s) below it, of every two."""
        return jnp.stack([lower[..., i + below * s : i + below * s + s, i : i + s] for i in range(0, size, s << below)], axis=-3)

    row, column, within = jnp.arange(s)[:, None], jnp.arange(s), blocks(s, 0)
    inverse = jnp.broadcast_to(jnp.eye(s, dtype=lower.dtype), within.shape)
    for level in range(s.bit_length() - 1):
        low = jnp.where((row >> level == (column >> level) + 1) & (row >> level & 1 == 1), within, 0)
        inverse = inverse - (low if level == 0 else _exact(_exact(inverse, low), inverse))
    while s < size:
        first, second = inverse[..., ::2, :, :], inverse[..., 1::2, :, :]
        inverse = _square(first, -_exact(_exact(second, blocks(s, 1)), first), second)
        s *= 2
    return inverse[..., 0, :, :]


@unit_inverse.defjvp
def _(primals, tangents):
    inverse = unit_inverse(*primals)
    return inverse, -_exact(_exact(inverse, jnp.tril(tangents[0], -1)), inverse)


def _exact(a, b):
    return jnp.matmul(a, b, precision="highest")
