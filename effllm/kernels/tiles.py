"""What the bodies of kernels share: products of two-dimensional tiles, and tiles that compilers take."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def dot(a: jax.Array, b: jax.Array, turned: tuple[bool, bool] = (False, False), dtype=None, wide=jnp.float32) -> jax.Array:
    """a b of tiles, either turned (aᵀ, bᵀ) first: operands rounded to `dtype` (None: as they are), sums in `wide`. Its gradients are such products again, so
    that no compiler meets a transposition by itself."""
    return _product(a, b, turned, dtype, wide)


def _product(a, b, turned, dtype, wide):
    a, b = (x if dtype is None else x.astype(dtype) for x in (a, b))
    contracted = ((0 if turned[0] else 1,), (1 if turned[1] else 0,))
    precision = jax.lax.Precision.DEFAULT if a.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
    return jax.lax.dot_general(a, b, (contracted, ((), ())), precision=precision, preferred_element_type=wide)


def _forward(a, b, turned, dtype, wide):
    return _product(a, b, turned, dtype, wide), (a, b)


def _backward(turned, dtype, wide, operands, d):
    (a, b), (ta, tb) = operands, turned
    d = d if dtype is None else d.astype(dtype)
    da = _product(b, d, (tb, True), dtype, wide) if ta else _product(d, b, (False, not tb), dtype, wide)
    db = _product(d, a, (True, ta), dtype, wide) if tb else _product(a, d, (not ta, False), dtype, wide)
    return da.astype(a.dtype), db.astype(b.dtype)


dot.defvjp(_forward, _backward)


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


def filled(x: jax.Array, *sizes: int) -> jax.Array:
    """x with zeros after the ends of its last axes, up to these sizes."""
    last = x.shape[x.ndim - len(sizes) :]
    return jnp.pad(x, [(0, 0)] * (x.ndim - len(sizes)) + [(0, size - had) for size, had in zip(sizes, last)])
