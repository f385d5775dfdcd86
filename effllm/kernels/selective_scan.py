"""Mamba's selective scan as one kernel a direction (Gu & Dao 2023, arXiv 2312.00752 §3.3.2)."""

import jax
import jax.numpy as jnp

from effllm import ops
from effllm.kernels.backends import BACKENDS
from effllm.kernels.decays import EMPTY
from effllm.kernels.scan import Launch, scan_chunks
from effllm.kernels.tiles import down, filled, width
from effllm.kernels.tokens import channels_first, from_channels, over_tokens
from effllm.ops.selective_scan import IMPLEMENTATIONS as PLAIN
from effllm.ops.selective_scan import checked

IMPLEMENTATIONS = (*PLAIN, *BACKENDS)
LONGEST = 8


def selective_scan(
    x_btd: jax.Array,
    dt_btd: jax.Array,
    a_dn: jax.Array,
    b_btn: jax.Array,
    c_btn: jax.Array,
    start_bdn: jax.Array | None = None,
    *,
    real_bt: jax.Array | None = None,
    reset_bt: jax.Array | None = None,
    chunk: int = 32,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """ops.selective_scan, which says what it computes, with three more implementations: "pallas" (Triton on a GPU, Mosaic on a TPU), "interpret_gpu" and
    "interpret_tpu" (the same kernels in Pallas's interpreter).

    A program keeps h (N, W) of up to 128 channels of one sequence in registers or VMEM and goes token by token; h before each chunk is kept for the backward pass,
    O(T/C·D·N) memory, which goes through a chunk again for each of its tokens: chunks hold at most 8. N is filled up to a power of two.
    """
    if implementation not in BACKENDS:
        if implementation not in (None, *PLAIN):
            raise ValueError(f"selective_scan has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
        options = {"real_bt": real_bt, "reset_bt": reset_bt, "chunk": chunk}
        return ops.selective_scan(x_btd, dt_btd, a_dn, b_btn, c_btn, start_bdn, **options, implementation=implementation)
    (batch, length, size), states = x_btd.shape, a_dn.shape[1]
    wide, start_bdn = checked(x_btd, a_dn, start_bdn, chunk)
    chunk = min(LONGEST, 1 << (chunk.bit_length() - 1))
    count, wide_n = -(-length // chunk), width(states)
    if real_bt is not None:
        dt_btd = jnp.where(real_bt[..., None], dt_btd, 0)
        reset_bt = None if reset_bt is None else reset_bt & real_bt
    streams = [channels_first(x_btd, count * chunk), channels_first(dt_btd, count * chunk)]
    parts = len(streams[0]) // batch

    def shared(y_btn, wanted):
        return jnp.repeat(filled(y_btn, count * chunk, wanted), parts, axis=0)

    def of_states(y_bdn):
        return channels_first(jnp.swapaxes(filled(y_bdn.astype(wide), wide_n), 1, 2), wide_n)

    streams += [shared(b_btn, wide_n), shared(c_btn, wide_n)]
    streams += [] if reset_bt is None else [shared(jnp.where(reset_bt, jnp.asarray(EMPTY, wide), 0)[..., None], 1)]
    a, start = of_states(jnp.broadcast_to(a_dn, (batch, *a_dn.shape))), of_states(start_bdn)
    (last,), (y,) = scan_chunks(_step, (a,), (start,), tuple(streams), ((chunk, start.shape[2], wide),), Launch(count, implementation))
    return from_channels(y, x_btd.shape), jnp.swapaxes(from_channels(last, (batch, states, size)), 1, 2)


def _step(fixed, carry, chunk):
    """A (N, W); h (N, W); x, Δ (C, W), B, C (C, N), and EMPTY (C, 1) where a document begins."""
    return over_tokens(_token, fixed, carry, tuple(x.astype(fixed[0].dtype) for x in chunk))


def _token(fixed, carry, rows):
    (a,), (h,), (x, dt, b, c, *reset) = fixed, carry, rows
    h = jnp.exp(sum(reset, dt * a)) * h + down(b) * (dt * x)
    return (h,), (jnp.sum(down(c) * h, axis=0, keepdims=True),)
