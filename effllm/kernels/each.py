"""What chunks of time make each by itself, as one kernel a direction with a program for every chunk: for what needs no carry."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as mosaic
from jax.experimental.pallas import triton

from effllm.kernels.backends import addressed, on

Arrays = Sequence[jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 2, 3, 4))
def map_chunks(step: Callable[[Arrays], Arrays], streams: Arrays, outs: tuple, chunks: int, backend: str) -> Arrays:
    """`outs` of step(chunk) for all chunks of N sequences, see scan.scan_chunks; differentiable."""
    return _forward(step, streams, outs, chunks, backend)[0]


def _forward(step, streams, outs, chunks, backend):
    return _on(lambda chunk: jax.vjp(step, chunk)[0], outs, chunks, backend, streams), tuple(streams)


def _backward(step, outs, chunks, backend, streams, d_outs):
    def back(chunk):
        results, pull = jax.vjp(step, chunk[: len(streams)])
        return pull(type(results)(d.astype(r.dtype) for d, r in zip(chunk[len(streams) :], results)))[0]

    return (_on(back, tuple((s.shape[1] // chunks, s.shape[2], s.dtype) for s in streams), chunks, backend, (*streams, *d_outs)),)


map_chunks.defvjp(_forward, _backward)


def _on(step, outs, chunks, backend, streams):
    forms = (functools.partial(form, lambda fixed, chunk: step(chunk), outs, chunks) for form in (gpu, tpu))
    return on(backend, *forms, (), tuple(streams))


def shapes(outs: tuple, sequences: int, chunks: int) -> list[jax.ShapeDtypeStruct]:
    """Of results that are `outs` a chunk."""
    return [jax.ShapeDtypeStruct((sequences, chunks * rows, width), dtype) for rows, width, dtype in outs]


def warps(sizes: Iterable[int]) -> int:
    """Of a program whose tiles have these sizes."""
    return 4 if max(sizes) <= 64 * 64 else 8


def gpu(step: Callable, outs: tuple, chunks: int, interpret: bool, fixed: Arrays, streams: Arrays) -> Arrays:
    """step(fixed, chunk) by Triton, a program for every chunk of every sequence."""
    rows = [s.shape[1] // chunks for s in streams]

    def kernel(*refs):
        fixed_refs, stream_refs, out_refs = refs[: len(fixed)], refs[len(fixed) : len(fixed) + len(streams)], refs[len(fixed) + len(streams) :]
        n, c = pl.program_id(0), pl.program_id(1)
        results = step(tuple(ref[n] for ref in fixed_refs), tuple(ref[n, pl.ds(c * r, r), :] for ref, r in zip(stream_refs, rows)))
        for ref, result, (r, _, dtype) in zip(out_refs, results, outs):
            ref[n, pl.ds(c * r, r), :] = result.astype(dtype)

    wanted = shapes(outs, len(streams[0]), chunks)
    addressed(*fixed, *streams, *wanted)
    found = pl.pallas_call(
        kernel, out_shape=wanted, grid=(len(streams[0]), chunks), interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=warps(r * s.shape[2] for r, s in zip(rows, streams)), num_stages=1),
    )(*fixed, *streams)  # fmt: skip
    return tuple(found)


def tpu(step: Callable, outs: tuple, chunks: int, interpret: bool, fixed: Arrays, streams: Arrays) -> Arrays:
    """step(fixed, chunk) by Mosaic, chunk after chunk of every sequence."""

    def kernel(*refs):
        ins = tuple(ref[...] for ref in refs[: len(fixed) + len(streams)])
        for ref, value in zip(refs[len(ins) :], step(ins[: len(fixed)], ins[len(fixed) :])):
            ref[...] = value.astype(ref.dtype)

    def part(shape: Any) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, *shape[2:]), lambda n, c: (n, c, 0, 0))

    def by_chunk(x: Any) -> tuple[int, ...]:
        return (x.shape[0], chunks, x.shape[1] // chunks, x.shape[2])  # Mosaic takes any rows that are all of an axis, else multiples of 8

    wanted = shapes(outs, len(streams[0]), chunks)
    found = pl.pallas_call(
        kernel, out_shape=[jax.ShapeDtypeStruct(by_chunk(s), s.dtype) for s in wanted], grid=(len(streams[0]), chunks), interpret=interpret,
        in_specs=[*(pl.BlockSpec((None, *f.shape[1:]), lambda n, c: (n, 0, 0)) for f in fixed), *(part(by_chunk(s)) for s in streams)],
        out_specs=[part(by_chunk(s)) for s in wanted], compiler_params=mosaic.CompilerParams(dimension_semantics=("parallel", "parallel")),
    )(*fixed, *(s.reshape(by_chunk(s)) for s in streams))  # fmt: skip
    return tuple(f.reshape(s.shape) for f, s in zip(found, wanted))
