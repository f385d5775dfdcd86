"""What the bodies of kernels share: products of two-dimensional tiles, and tiles that compilers take."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def dot(a: jax.Array, b: jax.Array, turned: tuple[bool, bool] = (False, False), dtype=None, wide=jnp.float32) -> jax.Array:
    """a b of tiles, either turned (aᵀ, bᵀ) first: operands rounded to `dtype` (None: as they are), sums in `wide`. Its gradients are such products again, so
    that no compiler meets a transposition by itself."""
    return product(a, b, turned, dtype, wide)


def product(a: jax.Array, b: jax.Array, turned: tuple[bool, bool] = (False, False), dtype=None, wide=jnp.float32) -> jax.Array:
    """`dot` for bodies that nothing differentiates: no call to a custom derivative, which Triton's lowering does not know."""
    a, b = (x if dtype is None else x.astype(dtype) for x in (a, b))
    contracted = ((0 if turned[0] else 1,), (1 if turned[1] else 0,))
    precision = jax.lax.Precision.DEFAULT if jnp.finfo(a.dtype).bits < 32 else None  # None: what backends.on sets
    return jax.lax.dot_general(a, b, (contracted, ((), ())), precision=precision, preferred_element_type=wide)


def _forward(a, b, turned, dtype, wide):
    return product(a, b, turned, dtype, wide), (a, b)


def _backward(turned, dtype, wide, operands, d):
    (a, b), (ta, tb) = operands, turned
    d = d if dtype is None else d.astype(dtype)
    da = product(b, d, (tb, True), dtype, wide) if ta else product(d, b, (False, not tb), dtype, wide)
    db = product(d, a, (True, ta), dtype, wide) if tb else product(a, d, (not ta, False), dtype, wide)
    return da.astype(a.dtype), db.astype(b.dtype)


dot.defvjp(_forward, _backward)


@jax.custom_vjp
def unit_inverse(lower: jax.Array) -> jax.Array:
    """(I + N)⁻¹ for N (C, C) below the diagonal, C a power of two: inverses X of the blocks of 1, 2, 4, … tokens on the diagonal are joined by X − X B X, B what
    lies between two of them. As stable as substitution, which powers of N are not; 2 log₂ C products in N's own precision."""
    return _inverse(lower)


def _inverse(lower):
    i, j = places(len(lower))

    def joined(level, inverse):
        between = jnp.where(((i >> level) & 1 == 1) & (j >> level == (i >> level) - 1), lower, 0)
        return inverse - _exact(_exact(inverse, between), inverse)

    return jax.lax.fori_loop(0, len(lower).bit_length() - 1, joined, (i == j).astype(lower.dtype))


def _exact(a, b, turned=(False, False)):
    return product(a, b, turned, None, a.dtype)


def _inverse_forward(lower):
    return (_inverse(lower),) * 2


def _inverse_backward(inverse, d):
    i, j = places(len(d))
    return (jnp.where(i > j, -_exact(_exact(inverse, d, (True, False)), inverse, (False, True)), 0),)


unit_inverse.defvjp(_inverse_forward, _inverse_backward)


def places(size: int) -> tuple[jax.Array, jax.Array]:
    """(row numbers, column numbers) of a square tile, (size, size) int32."""
    return tuple(jax.lax.broadcasted_iota(jnp.int32, (size, size), axis) for axis in (0, 1))


def across(column: jax.Array) -> jax.Array:
    """A column (C, 1) as a row (1, C)."""
    i, j = places(column.shape[0])
    return jnp.sum(jnp.where(i == j, column, 0), axis=0, keepdims=True)


def down(row: jax.Array) -> jax.Array:
    """A row (1, C) as a column (C, 1)."""
    i, j = places(row.shape[1])
    return jnp.sum(jnp.where(i == j, row, 0), axis=1, keepdims=True)


def width(size: int, least: int = 16) -> int:
    """The power of two, at least 16, that a tile of this many rows or columns is filled up to: Triton multiplies no others."""
    return max(least, 1 << (size - 1).bit_length())


def filled(x: jax.Array, *sizes: int, value: float = 0) -> jax.Array:
    """x with zeros (or another value) after the ends of its last axes, up to these sizes."""
    last = x.shape[x.ndim - len(sizes) :]
    return jnp.pad(x, [(0, 0)] * (x.ndim - len(sizes)) + [(0, size - had) for size, had in zip(sizes, last)], constant_values=value)


def heads_first(x_bthk: jax.Array, batch: int, time: int, size: int) -> jax.Array:
    """(B or 1, T, H, K) as (B·H, time, size): a program's part is a head's, filled with zeros."""
    x_bthk = jnp.broadcast_to(x_bthk, (batch, *x_bthk.shape[1:]))
    return filled(jnp.moveaxis(x_bthk, 2, 1).reshape(-1, x_bthk.shape[1], x_bthk.shape[3]), time, size)


def from_heads(x: jax.Array, shape: tuple[int, int, int, int]) -> jax.Array:
    """(B·H, time, size) as (B, T, H, V), the inverse of `heads_first`."""
    batch, length, heads, values = shape
    return jnp.moveaxis(x[:, :length, :values].reshape(batch, heads, length, values), 1, 2)
