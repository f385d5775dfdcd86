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

from effllm.kernels.backends import on

Arrays = Sequence[jax.Array]
Step = Callable[[Arrays, Arrays, Arrays], tuple[Arrays, Arrays]]
Out = tuple[int, int, Any]


class Launch(NamedTuple):
    """How a kernel runs: over how many chunks, and on which of BACKENDS."""

    chunks: int
    backend: str


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 4, 5))
def scan_chunks(step: Step, fixed: Arrays, carry: Arrays, streams: Arrays, outs: tuple[Out, ...], launch: Launch) -> tuple[Arrays, Arrays]:
    """(last carry, outs) of `step` over the chunks of N sequences; differentiable in all arrays.

    fixed, carry: arrays (N, A, B), whole at each step. streams: arrays (N, chunks·R, X), of which a step gets (R, X), R and X of each its own. outs: (R, X,
    dtype) of each result of a step; they come back as (N, chunks·R, X). The carry keeps the dtypes that it comes with.

    launch.backend: see backends.on.
    """
    return _scan(_inlined(step), fixed, carry, streams, outs, launch, reverse=False)


def _inlined(step):
    """`step` without calls to custom derivatives, for which Triton's lowering has no rule: the forward half of its derivative has none."""
    return lambda *arrays: jax.vjp(step, *arrays)[0]


def _forward(step, fixed, carry, streams, outs, launch):
    def keeping(fixed, carry, chunk):
        now, results = _inlined(step)(fixed, carry, chunk)
        return now, (*results, *carry)

    kept = tuple((*c.shape[1:], c.dtype) for c in carry)
    last, found = _scan(keeping, fixed, carry, streams, (*outs, *kept), launch, reverse=False)
    return (last, found[: len(outs)]), (tuple(fixed), tuple(streams), found[len(outs) :])


def _backward(step, outs, launch, residuals, gradients):
    fixed, streams, before = residuals
    d_last, d_outs = gradients

    def back(fixed, d_carry, chunk):
        chunk, before, d_outs = (chunk[a:b] for a, b in ((0, len(streams)), (len(streams), -len(outs)), (-len(outs), None)))
        (now, results), pull = jax.vjp(step, fixed, before, chunk)
        d_now, d_fixed = d_carry[: len(before)], d_carry[len(before) :]
        like = tuple(type(part)(d.astype(r.dtype) for d, r in zip(ds, part)) for ds, part in ((d_now, now), (d_outs, results)))
        more, d_before, d_chunk = pull(like)
        return (*d_before, *(d + m for d, m in zip(d_fixed, more))), d_chunk

    start = (*d_last, *(jnp.zeros(f.shape, f.dtype) for f in fixed))
    parts = tuple((s.shape[1] // launch.chunks, s.shape[2], s.dtype) for s in streams)
    d_first, d_streams = _scan(back, fixed, start, (*streams, *before, *d_outs), parts, launch, reverse=True)
    return d_first[len(before) :], d_first[: len(before)], d_streams


scan_chunks.defvjp(_forward, _backward)


def _scan(step, fixed, carry, streams, outs, launch, reverse):
    arrays = tuple(fixed), tuple(carry), tuple(streams)
    gpu, tpu = (functools.partial(form, step, outs, launch, reverse) for form in (_gpu, _tpu))
    return on(launch.backend, gpu, tpu, *arrays)


def _shapes(carry, outs, chunks):
    lasts = [jax.ShapeDtypeStruct(c.shape, c.dtype) for c in carry]
    return lasts + [jax.ShapeDtypeStruct((len(carry[0]), chunks * rows, width), dtype) for rows, width, dtype in outs]


def _split(refs, *groups):
    ends = [sum(map(len, groups[: n + 1])) for n in range(len(groups))]
    return [refs[a:b] for a, b in zip([0, *ends], [*ends, None])]


def _gpu(step, outs, launch, reverse, interpret, fixed, carry, streams):
    rows = [s.shape[1] // launch.chunks for s in streams]

    def kernel(*refs):
        fixed_refs, carry_refs, stream_refs, last_refs, out_refs = _split(refs, fixed, carry, streams, carry)
        n = pl.program_id(0)
        held = tuple(ref[n] for ref in fixed_refs)

        def body(i, now):
            c = launch.chunks - 1 - i if reverse else i
            now, results = step(held, now, tuple(ref[n, pl.ds(c * r, r), :] for ref, r in zip(stream_refs, rows)))
            for ref, result, (r, _, dtype) in zip(out_refs, results, outs):
                ref[n, pl.ds(c * r, r), :] = result.astype(dtype)
            return tuple(now)

        last = jax.lax.fori_loop(0, launch.chunks, body, tuple(ref[n] for ref in carry_refs))
        for ref, value in zip(last_refs, last):
            ref[n] = value

    warps = 4 if max(c[0].size for c in carry) <= 64 * 64 else 8
    found = pl.pallas_call(
        kernel, out_shape=_shapes(carry, outs, launch.chunks), grid=(len(carry[0]),), interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
    )(*fixed, *carry, *streams)  # fmt: skip
    return tuple(found[: len(carry)]), tuple(found[len(carry) :])


def _tpu(step, outs, launch, reverse, interpret, fixed, carry, streams):
    chunks = launch.chunks

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
