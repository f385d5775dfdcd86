"""The element-wise linear recurrence as one kernel a direction (De et al. 2024, arXiv 2402.19427, who wrote one for TPUs)."""

import jax
import jax.numpy as jnp

from effllm import ops
from effllm.kernels.backends import BACKENDS
from effllm.kernels.scan import Launch, scan_chunks
from effllm.kernels.tokens import channels_first, from_channels, over_tokens
from effllm.ops.linear_recurrence import IMPLEMENTATIONS as PLAIN
from effllm.ops.linear_recurrence import prepared

IMPLEMENTATIONS = (*PLAIN, *BACKENDS)
CHUNK = 16


def linear_recurrence(
    a: jax.Array,
    b_btd: jax.Array,
    start_bd: jax.Array | None = None,
    *,
    real_bt: jax.Array | None = None,
    reset_bt: jax.Array | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """ops.linear_recurrence, which says what it computes, with three more implementations: "pallas" (Triton on a GPU, Mosaic on a TPU), "interpret_gpu" and
    "interpret_tpu" (the same kernels in Pallas's interpreter).

    A program keeps h of up to 128 channels of one sequence in registers or VMEM and reads and writes each number once; h of every 16th token is kept for the
    backward pass. Raises ValueError for complex numbers besides what the op raises.
    """
    if implementation not in BACKENDS:
        if implementation not in (None, *PLAIN):
            raise ValueError(f"linear_recurrence has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
        return ops.linear_recurrence(a, b_btd, start_bd, real_bt=real_bt, reset_bt=reset_bt, implementation=implementation)
    a_btd, b_btd, start_bd = prepared(a, b_btd, start_bd, real_bt, reset_bt)
    if jnp.iscomplexobj(b_btd):
        raise ValueError(f"linear_recurrence: implementation={implementation!r} computes real numbers, these are {b_btd.dtype}; use one of {PLAIN}")
    count = -(-b_btd.shape[1] // CHUNK)
    time = count * CHUNK
    streams = channels_first(a_btd, time, value=1), channels_first(b_btd, time)
    start = channels_first(start_bd[:, None], 1)
    (last,), (h,) = scan_chunks(_step, (), (start,), streams, ((CHUNK, start.shape[2], b_btd.dtype),), Launch(count, implementation))
    return from_channels(h, b_btd.shape), from_channels(last, (len(start_bd), 1, b_btd.shape[2]))[:, 0]


def _step(fixed, carry, chunk):
    """a, b (C, W); h (1, W)."""
    return over_tokens(_token, fixed, carry, chunk)


def _token(fixed, carry, rows):
    (h,), (a, b) = carry, rows
    h = a * h + b
    return (h,), (h,)
