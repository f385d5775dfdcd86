"""Kernels over pairs of blocks: one block is held while those that it meets pass by. What the kernels of attention stand on.

The GPU form (Triton) gives one program to each head and held block and loops over the passing blocks with the carry in registers. The TPU form (Mosaic) walks
the passing blocks along the last, sequential axis of the grid with the carry in VMEM, which so holds one block of each side whatever the length. Which blocks
are met is a table, so that the others are neither read nor computed.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as mosaic
from jax.experimental.pallas import triton

from effllm.kernels.backends import addressed
from effllm.kernels.tiles import across, down

TABLE = 2**16  # entries of a table that Mosaic keeps in SMEM for each row of the batch; a larger one is that of all rows together


class Operand(NamedTuple):
    """An array (B or 1, G or 1, R or 1, X, Y) for batch, group, head of the group; X is in blocks, or Y (with X = 1) if `lanes`.

    `held` says by which of the two blocks it is read; None reads all of it.
    """

    array: jax.Array
    held: bool | None
    lanes: bool = False


class Result(NamedTuple):
    """What a program leaves for its held block, of this whole shape; see Operand."""

    shape: tuple[int, ...]
    dtype: Any
    lanes: bool = False


class Grid(NamedTuple):
    """(B, G), the R heads of a group, whether one program goes through all of them (else one has one), rows of a held and of a passing block."""

    batch: int
    groups: int
    heads: int
    together: bool
    held: int
    passing: int
    warps: int
    stages: int

    @property
    def programs(self) -> tuple[int, int]:
        """Heads of a group that programs share out, and those that one goes through; one of the two is 1."""
        return (1, self.heads) if self.together else (self.heads, 1)


class Visits(NamedTuple):
    """The passing blocks that each of N held blocks meets, at most `most`: (B or 1, N, most) their numbers, the last repeated, or (B or 1, N, 1) the first one
    where each meets a run of neighbours; and how many there are (B or 1, N)."""

    block: Any
    count: Any
    most: int

    @classmethod
    def of(cls, active_bnm: Any, most: int) -> "Visits":
        """Those of a table of pairs, of which no row holds more than `most`."""
        xp = np if isinstance(active_bnm, np.ndarray) else jnp
        count_bn = active_bnm.sum(-1)
        order_bnm = xp.argsort(~active_bnm, axis=-1, stable=True)[..., :most]
        last_bn1 = xp.take_along_axis(order_bnm, xp.maximum(count_bn - 1, 0)[..., None], axis=-1)
        block_bnm = xp.where(np.arange(order_bnm.shape[-1]) < count_bn[..., None], order_bnm, last_bn1)
        return cls(block_bnm.astype(np.int32), count_bn.astype(np.int32), block_bnm.shape[-1])

    def in_runs(self) -> "Visits":
        """The same without a table of all numbers, where it is known before the kernel runs that all are runs: Triton then loads a block while it multiplies
        another, which it does not by numbers that it must load first."""
        if not isinstance(self.block, np.ndarray):
            return self
        n_m = np.arange(self.most)
        runs = (self.block == self.block[..., :1] + n_m) | (n_m >= self.count[..., None])
        return self._replace(block=self.block[..., :1]) if runs.all() else self

    def at(self, block_ref: Any, row: Any, n: Any) -> Any:
        """The number of the n-th block that a row of the flat `block` meets."""
        width = self.block.shape[-1]
        return block_ref[row] + n if width < self.most else block_ref[row * width + n]


def visit(begin: Callable, step: Callable, end: Callable, operands: dict[str, Operand], visits: Visits, results: Sequence[Result], grid: Grid, tpu: bool,
          interpret: bool) -> Sequence[jax.Array]:  # fmt: skip
    """`results` of end(carry), the carry folded from begin() by step(tiles, carry) over the passing blocks that each held one meets.

    tiles has the operands' names: a tile (rows, Y) of each, and of those in lanes a column if held and a row if passing. end gives a column for lanes.
    """
    form = _tpu if tpu else _gpu
    return form(begin, step, end, operands, visits, results, grid, interpret)


def _lead(shape, *index):
    return tuple(x if size > 1 else 0 for x, size in zip(index, shape))


def _gpu(begin, step, end, operands, visits, results, grid, interpret):
    rows, blocks, _ = visits.block.shape

    def read(ref, operand, *index):
        *lead, block = index
        lead = _lead(ref.shape, *lead)
        if operand.held is None:
            return ref[(*lead, slice(None), slice(None))]
        size = grid.held if operand.held else grid.passing
        if not operand.lanes:
            return ref[(*lead, pl.ds(block * size, size), slice(None))]
        x = ref[(*lead, 0, pl.ds(block * size, size))]
        return x[:, None] if operand.held else x[None]

    def kernel(block_ref, count_ref, *refs):
        b, g, r, i = (pl.program_id(axis) for axis in range(4))
        row = (b * blocks if rows > 1 else 0) + i
        ins = dict(zip(operands, refs))
        held = {name: read(ins[name], o, b, g, r, i) for name, o in operands.items() if o.held}

        def head(more, carry):
            def meet(n, carry):
                j = visits.at(block_ref, row, n)
                return step(held | {name: read(ins[name], o, b, g, r + more, j) for name, o in operands.items() if not o.held}, carry)

            return jax.lax.fori_loop(0, count_ref[row], meet, carry)

        inner = grid.programs[1]
        carry = head(0, begin()) if inner == 1 else jax.lax.fori_loop(0, inner, head, begin())
        for ref, result, value in zip(refs[len(operands) :], results, end(carry)):
            lead, at = _lead(ref.shape, b, g, r), pl.ds(i * grid.held, grid.held)
            if result.lanes:
                ref[(*lead, 0, at)] = jnp.sum(value, axis=1).astype(result.dtype)
            else:
                ref[(*lead, at, slice(None))] = value.astype(result.dtype)

    shapes = [jax.ShapeDtypeStruct(r.shape, r.dtype) for r in results]
    addressed(*(o.array for o in operands.values()), *shapes)
    return pl.pallas_call(
        kernel, out_shape=shapes, grid=(grid.batch, grid.groups, grid.programs[0], blocks),
        interpret=interpret, compiler_params=triton.CompilerParams(num_warps=grid.warps, num_stages=grid.stages),
    )(visits.block.reshape(-1), visits.count.reshape(-1), *(o.array for o in operands.values()))  # fmt: skip


def _tpu(begin, step, end, operands, visits, results, grid, interpret):
    (rows, blocks, _), most = visits.block.shape, visits.most
    outer, inner = grid.programs
    columns = {name: o for name, o in operands.items() if o.held and o.lanes}

    def row(b, i):
        return (b * blocks if rows > 1 else 0) + i

    def kernel(block_ref, count_ref, *refs):
        b, i, more, n = (pl.program_id(axis) for axis in (0, 3, 4, 5))
        ins, out_refs, rest = dict(zip(operands, refs)), refs[len(operands) :][: len(results)], refs[len(operands) + len(results) :]
        column_refs, now_refs = dict(zip(columns, rest)), rest[len(columns) :]

        @pl.when((more == 0) & (n == 0))
        def _():
            for ref, value in zip(now_refs, begin()):
                ref[...] = value
            for name, ref in column_refs.items():
                ref[...] = down(ins[name][...])

        @pl.when(n < count_ref[row(b, i)])
        def _():
            now = step({name: ref[...] for name, ref in (ins | column_refs).items()}, tuple(ref[...] for ref in now_refs))
            for ref, value in zip(now_refs, now):
                ref[...] = value

        @pl.when((more == inner - 1) & (n == most - 1))
        def _():
            for ref, result, value in zip(out_refs, results, end(tuple(ref[...] for ref in now_refs))):
                ref[...] = (across(value) if result.lanes else value).astype(result.dtype)

    def spec(shape, held, lanes):
        size = 1 if held is None else grid.held if held else grid.passing

        def index(b, g, r, i, more, n, block_ref, count_ref):
            n = jnp.minimum(n, jnp.maximum(count_ref[row(b, i)] - 1, 0))
            at = 0 if held is None else i if held else visits.at(block_ref, row(b, i), n)
            return (*_lead(shape, b, g, r + more), *((0, at) if lanes else (at, 0)))

        return pl.BlockSpec((None, None, None, *((1, size) if lanes else (size, shape[4]))), index)

    scratch = [mosaic.VMEM((grid.held, 1), o.array.dtype) for o in columns.values()]
    scratch += [mosaic.VMEM(c.shape, c.dtype) for c in jax.eval_shape(begin)]
    return pl.pallas_call(
        kernel, out_shape=[jax.ShapeDtypeStruct(r.shape, r.dtype) for r in results], interpret=interpret,
        grid_spec=mosaic.PrefetchScalarGridSpec(
            num_scalar_prefetch=2, grid=(grid.batch, grid.groups, outer, blocks, inner, most), scratch_shapes=scratch,
            in_specs=[spec(o.array.shape, o.held, o.lanes) for o in operands.values()], out_specs=[spec(r.shape, True, r.lanes) for r in results],
        ),
        compiler_params=mosaic.CompilerParams(dimension_semantics=("parallel",) * 4 + ("arbitrary",) * 2),
    )(visits.block.reshape(-1), visits.count.reshape(-1), *(o.array for o in operands.values()))  # fmt: skip
