"""A recurrence over chunks of time as one Pallas kernel a direction: what the kernels of all linear recurrences stand on.

The mathematics of a chunk is a pure function of two-dimensional arrays, `step(fixed, carry, chunk) -> (carry, outs)`. The GPU form (Triton) gives one program
to each sequence and loops over its chunks with the carry in registers. The TPU form (Mosaic) walks the chunks along the last, sequential axis of the grid with
the carry in VMEM, which so holds two chunks whatever the length. The backward pass is the same kernel from the last chunk to the first with the step's own
vector–Jacobian product, from the carries that the forward pass left before each chunk.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as mosaic
from jax.experimental.pallas import triton

from effllm.kernels import each
from effllm.kernels.backends import addressed, on

Arrays = Sequence[jax.Array]
Step = Callable[[Arrays, Arrays, Arrays], tuple[Arrays, Arrays]]
Out = tuple[int, int, Any]
WIDEST = 64  # columns of a carry that a program on a GPU holds, where they are independent


class Launch(NamedTuple):
    """How a kernel runs: over how many chunks, on which of backends.BACKENDS, and, if the carry's columns are independent of each other, which streams have the
    same `columns`; all outs then have. A GPU goes through the chunks for the carry alone, with programs that share out its columns, and has as many programs as
    there are chunks for all else.
    """

    chunks: int
    backend: str
    columns: tuple[bool, ...] | None = None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 4, 5))
def scan_chunks(step: Step, fixed: Arrays, carry: Arrays, streams: Arrays, outs: tuple[Out, ...], launch: Launch) -> tuple[Arrays, Arrays]:
    """(last carry, outs) of `step` over the chunks of N sequences; differentiable in all arrays.

    fixed, carry: arrays (N, A, B), whole at each step. streams: arrays (N, chunks·R, X), of which a step gets (R, X), R and X of each its own. outs: (R, X,
    dtype) of each result of a step; they come back as (N, chunks·R, X). The carry keeps the dtypes that it comes with.
    """
    return _scan(inlined(step), fixed, carry, streams, outs, launch)[:2]


def inlined(step: Callable) -> Callable:
    """`step` without calls to custom derivatives, for which Triton's lowering has no rule: the forward half of its derivative has none."""
    return lambda *arrays: jax.vjp(step, *arrays)[0]


def _forward(step, fixed, carry, streams, outs, launch):
    last, found, before = _scan(inlined(step), fixed, carry, streams, outs, launch, keep=True)
    return (last, found), (tuple(fixed), tuple(streams), before)


def _backward(step, outs, launch, residuals, gradients):
    fixed, streams, before = residuals
    d_last, d_outs = gradients

    def pulled(fixed, d_now, chunk):
        chunk, before, d_outs = (chunk[a:b] for a, b in ((0, len(streams)), (len(streams), -len(outs)), (-len(outs), None)))
        (now, results), pull = jax.vjp(step, fixed, before, chunk)
        return pull(tuple(type(part)(d.astype(r.dtype) for d, r in zip(ds, part)) for ds, part in ((d_now, now), (d_outs, results))))

    def apart(fixed, d_now, chunk):
        d_fixed, d_before, d_chunk = pulled(fixed, d_now, chunk)
        return d_before, (*d_chunk, *d_fixed)

    def summing(fixed, d_now, chunk):
        d_fixed, d_before, d_chunk = pulled(fixed, d_now[: len(before)], chunk)
        return (*d_before, *(d + m for d, m in zip(d_now[len(before) :], d_fixed))), d_chunk

    inputs, parts = (*streams, *before, *d_outs), tuple((s.shape[1] // launch.chunks, s.shape[2], s.dtype) for s in streams)
    if launch.columns is not None:
        parts += tuple((*f.shape[1:], f.dtype) for f in fixed)
        columns = *launch.columns, *(True for _ in (*before, *d_outs))
        d_first, found, _ = _scan(apart, fixed, d_last, inputs, parts, launch._replace(columns=columns), reverse=True)
        d_fixed = tuple(d.reshape(len(f), launch.chunks, *f.shape[1:]).sum(1) for d, f in zip(found[len(streams) :], fixed))
        return d_fixed, d_first, found[: len(streams)]
    start = (*d_last, *(jnp.zeros(f.shape, f.dtype) for f in fixed))
    d_first, d_streams, _ = _scan(summing, fixed, start, inputs, parts, launch, reverse=True)
    return d_first[len(before) :], d_first[: len(before)], d_streams


scan_chunks.defvjp(_forward, _backward)


def _scan(step, fixed, carry, streams, outs, launch, reverse=False, keep=False):
    """(last carry, outs, the carry before each chunk if `keep`)."""
    kept = tuple((*c.shape[1:], c.dtype) for c in carry) if keep else ()

    def keeping(fixed, carry, chunk):
        now, results = step(fixed, carry, chunk)
        return now, (*results, *carry[: len(kept)])

    tpu = functools.partial(_tpu, keeping, (*outs, *kept), launch.chunks, reverse)
    if launch.columns is None:
        gpu = functools.partial(_gpu, keeping, (*outs, *kept), (), launch.chunks, reverse)
    else:
        gpu = functools.partial(_gpu_apart, step, outs, launch.columns, launch.chunks, reverse, keep)
    last, found = on(launch.backend, gpu, tpu, tuple(fixed), tuple(carry), tuple(streams))
    return last, found[: len(outs)], found[len(outs) :]


def _gpu_apart(step, outs, columns, chunks, reverse, keep, interpret, fixed, carry, streams):
    """First the carries, of which each needs the one before; then what each chunk makes of its own, all at once."""

    def first(fixed, carry, chunk):
        return step(fixed, carry, chunk)[0], carry

    def then(fixed, chunk):
        return step(fixed, chunk[: len(carry)], chunk[len(carry) :])[1]

    kept = tuple((*c.shape[1:], c.dtype) for c in carry)
    last, before = _gpu(first, kept, columns, chunks, reverse, interpret, fixed, carry, streams)
    found = each.gpu(then, outs, chunks, interpret, fixed, (*before, *streams))
    return last, (*found, *(before if keep else ()))


def _shapes(carry, outs, chunks):
    lasts = [jax.ShapeDtypeStruct(c.shape, c.dtype) for c in carry]
    return lasts + [jax.ShapeDtypeStruct((len(carry[0]), chunks * rows, width), dtype) for rows, width, dtype in outs]


def _split(refs, *groups):
    ends = [sum(map(len, groups[: n + 1])) for n in range(len(groups))]
    return [refs[a:b] for a, b in zip([0, *ends], [*ends, None])]


def _gpu(step, outs, columns, chunks, reverse, interpret, fixed, carry, streams):
    """A program for each sequence, or, with `columns` for each stream, for each part of the carry's and the outs' columns."""
    rows = [s.shape[1] // chunks for s in streams]
    parts = max(1, carry[0].shape[2] // WIDEST) if columns else 1
    shares = [own and parts > 1 for own in columns or [False] * len(streams)]

    def kernel(*refs):
        fixed_refs, carry_refs, stream_refs, last_refs, out_refs = _split(refs, fixed, carry, streams, carry)
        n, p = pl.program_id(0), pl.program_id(1)
        held = tuple(ref[n] for ref in fixed_refs)

        def part(ref, shared=parts > 1):
            size = ref.shape[2] // parts
            return pl.ds(p * size, size) if shared else slice(None)

        def body(i, now):
            c = chunks - 1 - i if reverse else i
            chunk = (ref[n, pl.ds(c * r, r), part(ref, shared)] for ref, r, shared in zip(stream_refs, rows, shares))
            now, results = step(held, now, tuple(chunk))
            for ref, result, (r, _, dtype) in zip(out_refs, results, outs):
                ref[n, pl.ds(c * r, r), part(ref)] = result.astype(dtype)
            return tuple(now)

        last = jax.lax.fori_loop(0, chunks, body, tuple(ref[n, :, part(ref)] for ref in carry_refs))
        for ref, value in zip(last_refs, last):
            ref[n, :, part(ref)] = value

    shapes = _shapes(carry, outs, chunks)
    addressed(*fixed, *carry, *streams, *shapes)
    found = pl.pallas_call(
        kernel, out_shape=shapes, grid=(len(carry[0]), parts), interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=each.warps(c[0].size // parts for c in carry), num_stages=1),
    )(*fixed, *carry, *streams)  # fmt: skip
    return tuple(found[: len(carry)]), tuple(found[len(carry) :])


def _tpu(step, outs, chunks, reverse, interpret, fixed, carry, streams):
    def kernel(*refs):
        fixed_refs, carry_refs, stream_refs, last_refs, out_refs, now_refs = _split(refs, fixed, carry, streams, carry, outs)

        @pl.when(pl.program_id(1) == 0)
        def _():
            for now, ref in zip(now_refs, carry_refs):
                now[...] = ref[...]

        now, results = step(*(tuple(ref[...] for ref in part) for part in (fixed_refs, now_refs, stream_refs)))
        for ref, value in zip([*now_refs, *out_refs], [*now, *results]):
            ref[...] = value.astype(ref.dtype)

        @pl.when(pl.program_id(1) == chunks - 1)
        def _():
            for last, ref in zip(last_refs, now_refs):
                last[...] = ref[...]

    def whole(shape):
        return pl.BlockSpec((None, *shape[1:]), lambda n, c: (n, 0, 0))

    def part(shape):
        return pl.BlockSpec((None, None, *shape[2:]), lambda n, c: (n, chunks - 1 - c if reverse else c, 0, 0))

    def by_chunk(shape):
        return (shape[0], chunks, shape[1] // chunks, shape[2])  # Mosaic takes any rows that are all of an axis, else multiples of 8

    shapes = _shapes(carry, outs, chunks)
    lasts, parts = shapes[: len(carry)], [jax.ShapeDtypeStruct(by_chunk(s.shape), s.dtype) for s in shapes[len(carry) :]]
    streams = [s.reshape(by_chunk(s.shape)) for s in streams]
    found = pl.pallas_call(
        kernel, out_shape=[*lasts, *parts], grid=(len(carry[0]), chunks), interpret=interpret,
        in_specs=[*(whole(a.shape) for a in (*fixed, *carry)), *(part(s.shape) for s in streams)],
        out_specs=[*(whole(c.shape) for c in carry), *(part(s.shape) for s in parts)],
        scratch_shapes=[mosaic.VMEM(c.shape[1:], c.dtype) for c in carry],
        compiler_params=mosaic.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
    )(*fixed, *carry, *streams)  # fmt: skip
    return tuple(found[: len(carry)]), tuple(f.reshape(s.shape) for f, s in zip(found[len(carry) :], shapes[len(carry) :]))
