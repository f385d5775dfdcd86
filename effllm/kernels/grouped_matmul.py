"""Products of groups of rows with a matrix for each group, as one kernel a direction (MegaBlocks, Gale et al. 2022, arXiv 2211.15841)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as mosaic
from jax.experimental.pallas import triton

from effllm import ops
from effllm.kernels.backends import BACKENDS, addressed, on
from effllm.kernels.tiles import filled, product, width
from effllm.ops.grouped_matmul import IMPLEMENTATIONS as PLAIN
from effllm.ops.grouped_matmul import check, within

IMPLEMENTATIONS = (*PLAIN, *BACKENDS)


def grouped_matmul(x_mk: jax.Array, w_gkn: jax.Array, sizes_g: jax.Array, *, implementation: str | None = None) -> jax.Array:
    """ops.grouped_matmul, which says what it computes, with three more implementations: "pallas" (Triton on a GPU, Mosaic on a TPU), "interpret_gpu" and
    "interpret_tpu" (the same kernels in Pallas's interpreter).

    A program multiplies one tile of rows with one group's matrix and keeps the rows of that group: a tile where groups meet is computed once for each of them,
    at most M/64 + G times on a GPU and M/128 + G on a TPU, where it is M/512 + G if groups have more than 512 rows on average. The gradient of x is such a
    product with w turned; that of w goes over the rows of each group. w is read in its own dtype, so that no narrower copy of it exists. Memory O(G + M/64)
    beyond inputs, results and gradients.

    Raises ValueError for dtypes but float32, bfloat16 and float16; implementation="xla" takes them.
    """
    if implementation not in BACKENDS:
        if implementation not in (None, *PLAIN):
            raise ValueError(f"grouped_matmul has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
        return ops.grouped_matmul(x_mk, w_gkn, sizes_g, implementation=implementation)
    check(x_mk, w_gkn, sizes_g)
    for x in (x_mk, w_gkn):
        if x.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
            raise ValueError(f"grouped_matmul: implementation={implementation!r} takes float32, bfloat16 and float16, not {x.dtype}; use implementation='xla'")
    return _grouped(x_mk, w_gkn, within(sizes_g, x_mk.shape[0]), implementation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _grouped(x_mk, w_gkn, sizes_g, backend):
    return on(backend, *_of(False, _gpu_rows, _tpu_rows), x_mk, w_gkn, sizes_g)


def _keeping(x_mk, w_gkn, sizes_g, backend):
    return _grouped(x_mk, w_gkn, sizes_g, backend), (x_mk, w_gkn, sizes_g)


def _pulled(backend, residuals, d_mn):
    x_mk, w_gkn, sizes_g = residuals
    dx_mk = on(backend, *_of(True, _gpu_rows, _tpu_rows), d_mn, w_gkn, sizes_g)
    return dx_mk, on(backend, *_of(w_gkn.dtype, _gpu_weights, _tpu_weights), x_mk, d_mn, sizes_g), None


_grouped.defvjp(_keeping, _pulled)


def _of(option, *forms):
    return [functools.partial(form, option) for form in forms]


class _Plan(NamedTuple):
    """For each of at most M/rows + G steps a group and one of its tiles, in order; (G + 1,) where groups begin and end, the last being rows of no group.

    A group without rows has a step too; steps that are left over are the last group's.
    """

    group_i: jax.Array
    tile_i: jax.Array
    start_g: jax.Array
    end_g: jax.Array

    @classmethod
    def of(cls, sizes_g, rows: int, size: int) -> "_Plan":
        tiles, groups = -(-rows // size), len(sizes_g)
        end_g = jnp.append(jnp.cumsum(sizes_g), rows)
        start_g = jnp.append(0, end_g[:-1])
        first_g = jnp.minimum(start_g // size, tiles - 1)
        count_g = jnp.maximum((end_g - 1) // size - first_g, 0) + 1
        after_g = jnp.cumsum(count_g)
        i = jnp.arange(tiles + groups)
        group_i = jnp.minimum(jnp.searchsorted(after_g, i, side="right"), groups)
        tile_i = jnp.minimum(first_g[group_i] + i - (after_g - count_g)[group_i], tiles - 1)
        return cls(*(x.astype(jnp.int32) for x in (group_i, tile_i, start_g, end_g)))


def _mine(plan, group, first, size):
    """(size, 1) whether the rows from `first` on are the group's."""
    row = first + jax.lax.broadcasted_iota(jnp.int32, (size, 1), 0)
    return (row >= plan.start_g[group]) & (row < plan.end_g[group])


def _gpu_call(kernel, out, grid, interpret, *arrays):
    addressed(*arrays, out)
    return pl.pallas_call(
        kernel, out_shape=out, grid=grid, interpret=interpret, compiler_params=triton.CompilerParams(num_warps=4, num_stages=3)
    )(*arrays)  # fmt: skip


def _span(first, size):
    """(size,) numbers from `first` on."""
    return first + jnp.arange(size)


def _gpu_rows(turned, interpret, x_mk, w_gkn, sizes_g):
    (m, k), groups, n = x_mk.shape, len(sizes_g), w_gkn.shape[1 if turned else 2]
    rows, columns, depth = (min(width(size), most) for size, most in ((m, 64), (n, 128), (k, 32)))
    plan = _Plan.of(sizes_g, m, rows)

    def kernel(*refs):
        plan, (x_ref, w_ref, y_ref) = _Plan(*refs[:4]), refs[4:]
        i, column = pl.program_id(0), _span(pl.program_id(1) * columns, columns)
        group, row = plan.group_i[i], _span(plan.tile_i[i] * rows, rows)[:, None]
        mine, of_w = _mine(plan, group, plan.tile_i[i] * rows, rows), jnp.minimum(group, groups - 1)

        def step(j, total):
            inner = _span(j * depth, depth)
            a = triton.load(x_ref.at[row, inner[None]], mask=mine & (inner[None] < k), other=0)
            p, q = (column[:, None], inner[None]) if turned else (inner[:, None], column[None])
            b = triton.load(w_ref.at[of_w, p, q], mask=(p < w_ref.shape[1]) & (q < w_ref.shape[2]), other=0)
            return total + product(a, b.astype(a.dtype), (False, turned))

        steps = (group < groups).astype(jnp.int32) * -(-k // depth)  # two plain numbers in a `where` would be of Triton's type of truth
        total = jax.lax.fori_loop(0, steps, step, jnp.zeros((rows, columns), jnp.float32))
        triton.store(y_ref.at[row, column[None]], total.astype(y_ref.dtype), mask=mine & (column[None] < n))

    grid = len(plan.group_i), -(-n // columns)
    return _gpu_call(kernel, jax.ShapeDtypeStruct((m, n), x_mk.dtype), grid, interpret, *plan, x_mk, w_gkn)


def _gpu_weights(dtype, interpret, x_mk, d_mn, sizes_g):
    (m, k), n, groups = x_mk.shape, d_mn.shape[1], len(sizes_g)
    rows, lines, columns = (min(width(size), most) for size, most in ((m, 32), (k, 64), (n, 128)))
    plan = _Plan.of(sizes_g, m, rows)

    def kernel(*refs):
        plan, (x_ref, d_ref, dw_ref) = _Plan(*refs[:4]), refs[4:]
        group, line, column = pl.program_id(0), _span(pl.program_id(1) * lines, lines), _span(pl.program_id(2) * columns, columns)

        def step(tile, total):
            row, mine = _span(tile * rows, rows)[:, None], _mine(plan, group, tile * rows, rows)
            a, b = (
                triton.load(ref.at[row, at[None]], mask=mine & (at[None] < size), other=0) for ref, at, size in ((x_ref, line, k), (d_ref, column, n))
            )  # fmt: skip
            return total + product(a, b, (True, False))

        first, last = (jax.lax.div(x, rows) for x in (plan.start_g[group], plan.end_g[group] + rows - 1))
        total = jax.lax.fori_loop(first, last, step, jnp.zeros((lines, columns), jnp.float32))
        triton.store(dw_ref.at[group, line[:, None], column[None]], total.astype(dtype), mask=(line[:, None] < k) & (column[None] < n))

    grid = groups, -(-k // lines), -(-n // columns)
    return _gpu_call(kernel, jax.ShapeDtypeStruct((groups, k, n), dtype), grid, interpret, *plan, x_mk, d_mn)


def _tpu_tile(size, most=512):
    """A tile of an axis: all of a short one, else the greatest power of two that divides it, or 128."""
    return size if size <= most else max(128, min(most, size & -size))


def _tpu_height(rows, groups):
    """Rows of a tile: w is read once for each, so that a tile is high where groups of equal size would be higher."""
    return min(512 if rows > 512 * groups else 128, rows + -rows % 16)


def _tpu_call(kernel, out, block, grid, order, interpret, plan, specs, *arrays):
    return pl.pallas_call(
        kernel, out_shape=out, interpret=interpret,
        grid_spec=mosaic.PrefetchScalarGridSpec(
            num_scalar_prefetch=4, grid=grid, in_specs=specs, out_specs=block, scratch_shapes=[mosaic.VMEM(block.block_shape[-2:], jnp.float32)]
        ),
        compiler_params=mosaic.CompilerParams(dimension_semantics=order),
    )(*plan, *arrays)  # fmt: skip


def _tpu_rows(turned, interpret, x_mk, w_gkn, sizes_g):
    (m, k), groups, n = x_mk.shape, len(sizes_g), w_gkn.shape[1 if turned else 2]
    rows, columns, depth = _tpu_height(m, groups), _tpu_tile(n), _tpu_tile(k)
    plan, k_filled = _Plan.of(sizes_g, m, rows), k + -k % depth
    if k_filled != k:
        x_mk, w_gkn = filled(x_mk, k_filled), filled(w_gkn, k_filled) if turned else filled(w_gkn, k_filled, n)

    def kernel(*refs):
        plan, (x_ref, w_ref, y_ref, total_ref) = _Plan(*refs[:4]), refs[4:]
        i, j = pl.program_id(1), pl.program_id(2)
        group, tile = plan.group_i[i], plan.tile_i[i]

        @pl.when(j == 0)
        def _():
            total_ref[...] = jnp.zeros(total_ref.shape, jnp.float32)

        @pl.when(group < groups)
        def _():
            total_ref[...] += product(x_ref[...], w_ref[...].astype(x_ref.dtype), (False, turned))

        @pl.when(j == k_filled // depth - 1)
        def _():
            begins = (i == 0) | (plan.tile_i[jnp.maximum(i - 1, 0)] != tile)
            before = jnp.where(begins, 0.0, y_ref[...].astype(jnp.float32))
            y_ref[...] = jnp.where(_mine(plan, group, tile * rows, rows) & (group < groups), total_ref[...], before).astype(y_ref.dtype)

    def of_w(c, i, j, group, tile, start, end):
        return (jnp.minimum(group[i], groups - 1), *((c, j) if turned else (j, c)))

    specs = [
        pl.BlockSpec((rows, depth), lambda c, i, j, group, tile, start, end: (tile[i], j)),
        pl.BlockSpec((None, *((columns, depth) if turned else (depth, columns))), of_w),
    ]
    block = pl.BlockSpec((rows, columns), lambda c, i, j, group, tile, start, end: (tile[i], c))
    grid = -(-n // columns), len(plan.group_i), k_filled // depth
    out = jax.ShapeDtypeStruct((m, n), x_mk.dtype)
    return _tpu_call(kernel, out, block, grid, ("parallel", "arbitrary", "arbitrary"), interpret, plan, specs, x_mk, w_gkn)


def _tpu_weights(dtype, interpret, x_mk, d_mn, sizes_g):
    (m, k), n, groups = x_mk.shape, d_mn.shape[1], len(sizes_g)
    rows, lines, columns = _tpu_height(m, groups), _tpu_tile(k), _tpu_tile(n)
    plan = _Plan.of(sizes_g, m, rows)
    steps = len(plan.group_i)

    def kernel(*refs):
        plan, (x_ref, d_ref, dw_ref, total_ref) = _Plan(*refs[:4]), refs[4:]
        i = pl.program_id(2)
        group = plan.group_i[i]

        @pl.when((i == 0) | (plan.group_i[jnp.maximum(i - 1, 0)] != group))
        def _():
            total_ref[...] = jnp.zeros(total_ref.shape, jnp.float32)

        @pl.when(group < groups)
        def _():
            mine = _mine(plan, group, plan.tile_i[i] * rows, rows)
            a, b = (jnp.where(mine, ref[...], jnp.zeros((), ref.dtype)) for ref in (x_ref, d_ref))
            total_ref[...] += product(a, b, (True, False))
            dw_ref[...] = total_ref[...].astype(dtype)

    def along(axis, size):
        return pl.BlockSpec((rows, size), lambda *at: (at[4][at[2]], at[axis]))

    block = pl.BlockSpec((None, lines, columns), lambda a, b, i, group, *_: (jnp.minimum(group[i], groups - 1), a, b))
    grid, out = (-(-k // lines), -(-n // columns), steps), jax.ShapeDtypeStruct((groups, k, n), dtype)
    return _tpu_call(kernel, out, block, grid, ("parallel", "parallel", "arbitrary"), interpret, plan, [along(0, lines), along(1, columns)], x_mk, d_mn)
