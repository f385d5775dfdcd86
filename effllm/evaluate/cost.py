"""Cost (survey §2): parameters, bytes, FLOPs, time, memory, energy and carbon."""

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from effllm import flops, weights
from effllm.evaluate.energy import GRID, Meter, carbon
from effllm.infer import Sampler, generate
from effllm.nn import DecoderLM, LanguageModel


def count(tree: Any) -> int:
    """Numbers in a tree of arrays or their shapes."""
    return sum(math.prod(a.shape) for a in jax.tree.leaves(tree))


def matmul_params(model: LanguageModel, params: Any) -> int:
    """Parameters that multiply once a token: all kernels, and a tied embedding as the head."""
    kernels = 0

    def add(path, leaf):
        nonlocal kernels
        if getattr(path[-1], "key", None) == "kernel":
            kernels += math.prod(leaf.shape)

    jax.tree_util.tree_map_with_path(add, params, is_leaf=lambda x: isinstance(x, weights.Weight))
    return kernels + (math.prod(params["embed"]["embedding"].shape) if model.tied else 0)


@dataclass(frozen=True)
class Cost:
    """What a model costs before it is run: parameters, their bytes, and FLOPs per token at one length (see effllm.flops)."""

    parameters: int
    bytes: int
    forward_flops: float
    training_flops: float

    @classmethod
    def of(cls, model: LanguageModel, params: Any, length: int) -> "Cost":
        """The cost of `model` with `params` (arrays or shapes) on sequences of `length`."""
        size, mixing = matmul_params(model, params), model.flops(length)
        bytes_ = sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(params))
        return cls(count(params), bytes_, flops.forward(size, mixing), flops.training(size, mixing))


def state_bytes(model: LanguageModel, length: int) -> int | None:
    """Bytes of the decoding state of one sequence of `length` tokens; None for a model that does not decode."""
    if not model.decodes:
        return None
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(jax.eval_shape(lambda: model.init_state(1, length))))


def utilisation(tokens_per_second: float, training_flops: float, devices: int, kind: str, dtype: str) -> tuple[float | None, str]:
    """(model FLOPs utilisation or None, in words): training FLOP/s over the devices' peak."""
    peak = flops.peak(kind, dtype)
    if peak is None:
        return None, f"no peak known for {kind!r} in {dtype}"
    mfu = tokens_per_second * training_flops / (devices * peak)
    return mfu, f"{mfu:.1%} of {devices} × {peak / 1e12:.0f} TFLOP/s ({dtype})"


def peak_memory() -> tuple[int, str]:
    """(bytes, of what): the device's own count where it keeps one, else the process's peak resident set."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "device memory"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "resident memory of the process"


def _seconds(function: Callable[[], Any], repeats: int) -> float:
    """The median time of a call, after one that compiles."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def inference(model: DecoderLM, params: Any, length: int, *, repeats: int = 5, grams_per_kwh: float = GRID) -> dict[str, Any]:
    """Time, energy and carbon of one sequence: a prefill of `length`/2 tokens, then decoding `length`/2 more.

    prefill_seconds is until the first token; decode_seconds_per_token the mean of those after; energy_joules and carbon_grams are of one such
    generation, None where the machine has no counter.
    """
    half = max(2, length // 2)
    prompts, lengths, key = jnp.zeros((1, half), jnp.int32), jnp.full((1,), half, jnp.int32), jax.random.key(0)

    def run(tokens):
        return generate(model, params, prompts, lengths, key, tokens=tokens, sampler=Sampler(temperature=0.0))

    prefill = _seconds(lambda: run(1), repeats)
    meter = Meter()
    run(half)
    before = meter.read()
    whole = _seconds(lambda: run(half), repeats)
    joules = meter.since(before) / (repeats + 1) if meter.source else None
    return {
        "prefill_tokens": half,
        "prefill_seconds": prefill,
        "decode_seconds_per_token": (whole - prefill) / (half - 1),
        "energy_joules": joules,
        "energy_source": meter.source or "no counter here",
        "carbon_grams": None if joules is None else carbon(joules, grams_per_kwh),
        "grid_grams_per_kwh": grams_per_kwh,
    }
