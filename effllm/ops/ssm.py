"""The time-invariant linear state space of S4 and its kin (Gu et al. 2021, arXiv 2111.00396), one for each channel."""

import functools

import jax
import jax.numpy as jnp

from effllm.ops.long_conv import convolve
from effllm.ops.tuned import tuned_chunk

IMPLEMENTATIONS = ("reference", "chunked")


def ssm(
    x_btd: jax.Array,
    a: jax.Array,
    b_dn: jax.Array,
    c_dn: jax.Array,
    start_bdn: jax.Array | None = None,
    *,
    real_bt: jax.Array | None = None,
    reset_bt: jax.Array | None = None,
    chunk: int | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(y (B, T, D), last h (B, D, N)) of h_t = A h_{t−1} + b x_t, y_t = Re(c·h_t), from h_{−1} = start, or zero; A, b, c already discretised.

    `a` is (D, N), the diagonal of A, or (D, N, N); real or complex, x real. Where reset_bt is true h forgets all before it; where real_bt is false h
    stays as it is (padding). Everything in at least float32 (complex64).

    implementation: "reference" takes one step after another; "chunked" (the default) convolves within chunks of Q = `chunk` tokens with the taps
    Re(c Aʲ b), j < Q, and carries h from chunk to chunk: O(T·D·(Q + N)) time, O(T·D + (T/Q)·D·N) memory, exactly causal. It is the papers'
    convolution with all T taps, without the FFT. A chunk of None is the quickest that was measured (see ops.tuned), or 64.

    Raises ValueError for arrays that do not fit one another, a chunk below 1, and an unknown implementation.
    """
    (batch, length, width), states = x_btd.shape, b_dn.shape[1]
    if b_dn.shape[0] != width or c_dn.shape != b_dn.shape or a.shape not in ((width, states), (width, states, states)):
        raise ValueError(f"ssm: a {a.shape}, b {b_dn.shape} and c {c_dn.shape} do not fit an input of {width} channels")
    if start_bdn is not None and start_bdn.shape != (batch, width, states):
        raise ValueError(f"ssm: start has shape {start_bdn.shape}, this needs {(batch, width, states)}: it is another model's state")
    chunk = tuned_chunk("ssm", (*x_btd.shape, states), 64) if chunk is None else chunk
    if chunk < 1:
        raise ValueError(f"ssm: chunk={chunk} must hold at least one token")
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"ssm has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
    wide = functools.reduce(jnp.promote_types, (v.dtype for v in (a, b_dn, c_dn)), jnp.promote_types(x_btd.dtype, jnp.float32))
    a, b_dn, c_dn = (v.astype(wide) for v in (a, b_dn, c_dn))
    start_bdn = jnp.zeros((batch, width, states), wide) if start_bdn is None else start_bdn.astype(wide)
    real_bt = jnp.ones((batch, length), bool) if real_bt is None else real_bt
    reset_bt = jnp.zeros((batch, length), bool) if reset_bt is None else reset_bt & real_bt
    x_btd = jnp.where(real_bt[..., None], x_btd, 0).astype(wide)
    if implementation == "reference" or length == 1:
        h_btdn, last_bdn = _steps(x_btd, a, b_dn, start_bdn, real_bt, reset_bt)
        return jnp.einsum("btdn,dn->btd", h_btdn, c_dn).real, last_bdn
    return _chunked(x_btd.real, a, b_dn, c_dn, start_bdn, real_bt, reset_bt, min(chunk, length))


def _advance(a, h):
    return a * h if a.ndim == 2 else jnp.einsum("dnm,...dm->...dn", a, h)


def _steps(x_btd, a, b_dn, start_bdn, real_bt, reset_bt, keep=True):
    """(all h if `keep`, the last h)."""

    def step(h_bdn, now):
        x_bd, real_b, reset_b = now
        after = jnp.where(reset_b[:, None, None], 0, _advance(a, h_bdn)) + x_bd[..., None] * b_dn
        h_bdn = jnp.where(real_b[:, None, None], after, h_bdn)
        return h_bdn, h_bdn if keep else None

    last_bdn, h_tbdn = jax.lax.scan(step, start_bdn, tuple(jnp.swapaxes(v, 0, 1) for v in (x_btd, real_bt, reset_bt)))
    return None if h_tbdn is None else jnp.swapaxes(h_tbdn, 0, 1), last_bdn


def _parts(z):
    """A complex array as its real and imaginary parts side by side, so that products with it are real."""
    return jnp.concatenate([z.real, z.imag], axis=-1) if jnp.iscomplexobj(z) else z


def _chunked(x_btd, a, b_dn, c_dn, start_bdn, real_bt, reset_bt, size):
    batch, length, width = x_btd.shape
    # Real tokens first, in order: then all lags are the same everywhere.
    order_bt = jnp.argsort(~real_bt, axis=1, stable=True)
    x_btd, reset_bt = jnp.take_along_axis(x_btd, order_bt[..., None], axis=1), jnp.take_along_axis(reset_bt, order_bt, axis=1)
    count_b = jnp.sum(real_bt, axis=1, dtype=jnp.int32)
    chunks = -(-length // size)
    x_btd, reset_bt = (jnp.pad(v, ((0, 0), (0, chunks * size - length), *((0, 0),) * (v.ndim - 2))) for v in (x_btd, reset_bt))
    x_bcsd, run_bcs = x_btd.reshape(batch, chunks, size, width), jnp.cumsum(reset_bt, axis=1).reshape(batch, chunks, size)

    _, in_sdn = jax.lax.scan(lambda v, _: (_advance(a, v), v), b_dn, None, size)  # Aˢ b
    transposed = a if a.ndim == 2 else jnp.swapaxes(a, -1, -2)
    _, out_sdn = jax.lax.scan(lambda v, _: (_advance(transposed, v),) * 2, c_dn, None, size)  # c Aˢ⁺¹
    jump = a**size if a.ndim == 2 else jnp.linalg.matrix_power(a, size)
    taps_sd = jnp.sum(in_sdn * c_dn, axis=-1).real
    y_bcsd = convolve(x_bcsd.reshape(-1, size, width), taps_sd, run_bcs.reshape(-1, size)).reshape(x_bcsd.shape)

    last_bc = run_bcs[:, :, -1]
    before_bc = jnp.pad(last_bc[:, :-1], ((0, 0), (1, 0)))  # run 0 goes on from the start
    own = jnp.where((run_bcs == last_bc[..., None])[..., None], x_bcsd, 0)
    added = jnp.einsum("bcsd,sdn->bcdn", own, _parts(in_sdn[::-1]))
    if jnp.iscomplexobj(a):
        added = jax.lax.complex(*jnp.split(added, 2, axis=-1))

    def carry(h_bdn, now):
        added_bdn, kept_b = now
        return jnp.where(kept_b[:, None, None], _advance(jump, h_bdn), 0) + added_bdn, h_bdn

    end_bdn, h_cbdn = jax.lax.scan(carry, start_bdn, (jnp.swapaxes(added, 0, 1), jnp.swapaxes(last_bc == before_bc, 0, 1)))
    from_before = jnp.einsum("cbdn,sdn->bcsd", _parts(h_cbdn), _parts(out_sdn.conj()))
    y_bcsd = y_bcsd + jnp.where((run_bcs == before_bc[..., None])[..., None], from_before, 0)
    back_bt = jnp.argsort(order_bt, axis=1)
    y_btd = jnp.take_along_axis(y_bcsd.reshape(batch, -1, width), back_bt[..., None], axis=1)

    # The chunk that holds a row's last real token is walked to that token.
    rows, at_b = jnp.arange(batch), count_b // size
    from_bdn = jnp.concatenate([h_cbdn, end_bdn[None]])[at_b, rows]
    at_b = jnp.minimum(at_b, chunks - 1)
    real_bs = (jnp.arange(size) + at_b[:, None] * size < count_b[:, None]) & (count_b < chunks * size)[:, None]
    _, last_bdn = _steps(x_bcsd[rows, at_b], a, b_dn, from_bdn, real_bs, reset_bt.reshape(batch, chunks, size)[rows, at_b], keep=False)
    return y_btd, last_bdn
