"""Where a kernel runs: Triton on a GPU, Mosaic on a TPU, or either in Pallas's interpreter."""

import functools
from collections.abc import Callable
from typing import Any

import jax

BACKENDS = ("pallas", "interpret_gpu", "interpret_tpu")


def on(backend: str, gpu: Callable, tpu: Callable, *arrays: Any) -> Any:
    """gpu(interpret, *arrays) or tpu(interpret, *arrays).

    "pallas" is the one where it is lowered for CUDA and the other for a TPU (elsewhere lowering fails); "interpret_gpu" and "interpret_tpu" run the same two in
    Pallas's interpreter on any machine, slowly, to check them. Products of float32 (tiles.product) are made of three products of TF32 on a GPU, whose
    tensor cores know no float32, and at the highest precision elsewhere.
    """
    if backend == "pallas":
        cuda = functools.partial(_at, "TF32_TF32_F32_X3", gpu, False)
        return jax.lax.platform_dependent(*arrays, cuda=cuda, tpu=functools.partial(_at, "highest", tpu, False))
    return _at("highest", {"interpret_gpu": gpu, "interpret_tpu": tpu}[backend], True, *arrays)


def either(run: Callable, option: Any) -> list[Callable]:
    """The two forms for `on` of run(option, on a TPU, interpret, *arrays)."""
    return [functools.partial(run, option, on_tpu) for on_tpu in (False, True)]


def addressed(*arrays: Any) -> None:
    """Raise ValueError for arrays (or their shapes) with elements that Triton's addresses of 32 bits do not reach."""
    for array in arrays:
        if array.size >= 2**31:
            raise ValueError(f"a kernel's array of {array.shape} has {array.size:,} elements, Triton's addresses reach 2^31: give it fewer rows or shorter ones at once")


def _at(precision, form, interpret, *arrays):
    with jax.default_matmul_precision(precision):
        return form(interpret, *arrays)
