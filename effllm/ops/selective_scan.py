"""The selective state-space recurrence of Mamba (Gu & Dao 2023, arXiv 2312.00752)."""

import functools

import jax
import jax.numpy as jnp

from effllm.ops.linear_recurrence import FORMS

IMPLEMENTATIONS = ("reference", "chunked")


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
    """(y (B, T, D), last h (B, D, N)) of h_t = exp(dt_t A) ⊙ h_{t−1} + dt_t x_t B_tᵀ, y_t = h_t C_t, from h_{−1} = start, or zero.

    Each of D channels has N states; dt > 0 per channel, A < 0. Where reset_bt is true h forgets all before it; where real_bt is false h stays as
    it is (padding). States and y in at least float32.

    implementation: "reference" takes one step after another; "chunked" (the default) goes by chunks of `chunk` tokens, and recomputes their states
    (B, chunk, N, D) in the backward pass from those before each chunk: states of all T tokens never exist. Time O(T·D·N), memory
    O(T·D + chunk·D·N + (T/chunk)·D·N).

    Raises ValueError for a `start` of another shape, a chunk below 1, and an unknown implementation.
    """
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"selective_scan has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
    wide, start_bdn = checked(x_btd, a_dn, start_bdn, chunk)
    if real_bt is not None:
        dt_btd = jnp.where(real_bt[..., None], dt_btd, 0)  # h decays by e^0, and takes in nothing
        reset_bt = None if reset_bt is None else reset_bt & real_bt
    if implementation == "reference":
        return _steps(x_btd, dt_btd, a_dn, b_btn, c_btn, start_bdn, reset_bt)
    a_nd, start_bnd = a_dn.astype(wide).T, jnp.swapaxes(start_bdn, 1, 2)
    y_btd, last_bnd = _chunked(x_btd, dt_btd, a_nd, b_btn, c_btn, start_bnd, reset_bt, min(chunk, x_btd.shape[1]))
    return y_btd, jnp.swapaxes(last_bnd, 1, 2)


def _steps(x_btd, dt_btd, a_dn, b_btn, c_btn, start_bdn, reset_bt):
    def step(h_bdn, now):
        (x_bd, dt_bd, b_bn, c_bn), reset_b = (v.astype(h_bdn.dtype) for v in now[:4]), now[4]
        decay_bdn = jnp.exp(jnp.einsum("bd,dn->bdn", dt_bd, a_dn))
        decay_bdn = decay_bdn if reset_b is None else jnp.where(reset_b[:, None, None], 0, decay_bdn)
        h_bdn = decay_bdn * h_bdn + jnp.einsum("bd,bn->bdn", dt_bd * x_bd, b_bn)
        return h_bdn, jnp.einsum("bdn,bn->bd", h_bdn, c_bn)

    last_bdn, y_tbd = jax.lax.scan(step, start_bdn, jax.tree.map(lambda v: jnp.swapaxes(v, 0, 1), (x_btd, dt_btd, b_btn, c_btn, reset_bt)))
    return jnp.swapaxes(y_tbd, 0, 1), last_bdn


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def _chunked(x_btd, dt_btd, a_nd, b_btn, c_btn, start_bnd, reset_bt, chunk):
    return _forward(x_btd, dt_btd, a_nd, b_btn, c_btn, start_bnd, reset_bt, chunk)[0]


def _forward(x_btd, dt_btd, a_nd, b_btn, c_btn, start_bnd, reset_bt, chunk):
    """((y, last h), what the backward pass needs: the arguments, and h before each chunk)."""

    def part(h_bnd, now):
        *_, c_bcn, _, h_bcnd = _states(h_bnd, a_nd, *now)
        return h_bcnd[:, -1], (_over_states(h_bcnd, c_bcn), h_bnd)

    length, arrays = x_btd.shape[1], (x_btd, dt_btd, b_btn, c_btn, reset_bt)
    last_bnd, (y, before) = jax.lax.scan(part, start_bnd, _cut(arrays, chunk))
    return (_joined(y, length), last_bnd), (arrays, a_nd, before)


def _backward(chunk, residuals, gradients):
    arrays, a_nd, before = residuals
    d_y_btd, d_last_bnd = gradients

    def part(carry, now):
        (flow_bnd, d_a_nd), (*inputs, d_y_bcd, start_bnd) = carry, now
        x_bcd, dt_bcd, b_bcn, c_bcn, decay_bcnd, h_bcnd = _states(start_bnd, a_nd, *inputs)
        # g is the gradient of h; what flows into h before the chunk is the first one, decayed.
        last_c11 = jnp.arange(chunk)[:, None, None] == chunk - 1
        d_h_bcnd = c_bcn[..., None] * d_y_bcd[:, :, None] + jnp.where(last_c11, flow_bnd[:, None], 0)
        g_bcnd = FORMS[None].backward(decay_bcnd, d_h_bcnd)
        before_bcnd = jnp.concatenate([start_bnd[:, None], h_bcnd[:, :-1]], axis=1)
        d_log_bcnd = g_bcnd * before_bcnd * decay_bcnd
        d_added_bcd = _over_states(g_bcnd, b_bcn)
        d_dt_bcd = _over_states(d_log_bcnd * a_nd, jnp.ones_like(b_bcn)) + x_bcd * d_added_bcd
        d_b_bcn, d_c_bcn = jnp.einsum("bcnd,bcd->bcn", g_bcnd, dt_bcd * x_bcd), jnp.einsum("bcnd,bcd->bcn", h_bcnd, d_y_bcd)
        by_step = (d_log_bcnd * dt_bcd[:, :, None]).reshape(-1, *a_nd.shape)
        d_a_nd = d_a_nd + jnp.einsum("m,mnd->nd", jnp.ones(len(by_step), a_nd.dtype), by_step)
        return (decay_bcnd[:, 0] * g_bcnd[:, 0], d_a_nd), (dt_bcd * d_added_bcd, d_dt_bcd, d_b_bcn, d_c_bcn)

    carry = d_last_bnd, jnp.zeros_like(a_nd)
    (d_start_bnd, d_a_nd), found = jax.lax.scan(part, carry, (*_cut((*arrays, d_y_btd), chunk), before), reverse=True)
    d_x, d_dt, d_b, d_c = (_joined(d, d_y_btd.shape[1]).astype(v.dtype) for d, v in zip(found, arrays, strict=False))
    return d_x, d_dt, d_a_nd, d_b, d_c, d_start_bnd, None


_chunked.defvjp(_forward, _backward)


def _states(start_bnd, a_nd, x_bcd, dt_bcd, b_bcn, c_bcn, reset_bc):
    """(x, Δ, B, C in the type of states; decay (B, C, N, D); h (B, C, N, D)) of a chunk. Channels stand last: loops over them are the ones that vectorise."""
    x_bcd, dt_bcd, b_bcn, c_bcn = (v.astype(start_bnd.dtype) for v in (x_bcd, dt_bcd, b_bcn, c_bcn))
    decay_bcnd = jnp.exp(dt_bcd[:, :, None] * a_nd)
    decay_bcnd = decay_bcnd if reset_bc is None else jnp.where(reset_bc[..., None, None], 0, decay_bcnd)
    h_bcnd = FORMS[None].forward(decay_bcnd, b_bcn[..., None] * (dt_bcd * x_bcd)[:, :, None], start_bnd)
    return x_bcd, dt_bcd, b_bcn, c_bcn, decay_bcnd, h_bcnd


def _over_states(h_bcnd, c_bcn):
    """Σ_n h c as a product of matrices: XLA's sums over a middle axis are slow on a CPU."""
    return jnp.einsum("bcnd,bcn->bcd", h_bcnd, c_bcn)


def _cut(arrays, chunk):
    """(chunks, B, chunk, …) of each array (B, T, …); the last chunk is filled with steps of 0, which leave h as it is."""

    def cut(x_bt):
        x_bt = jnp.pad(x_bt, ((0, 0), (0, -x_bt.shape[1] % chunk), *((0, 0),) * (x_bt.ndim - 2)))
        return jnp.moveaxis(x_bt.reshape(len(x_bt), -1, chunk, *x_bt.shape[2:]), 1, 0)

    return jax.tree.map(cut, arrays)


def _joined(x_nbcd, length):
    x_bncd = jnp.moveaxis(x_nbcd, 0, 1)
    return x_bncd.reshape(len(x_bncd), -1, x_bncd.shape[-1])[:, :length]


def checked(x_btd: jax.Array, a_dn: jax.Array, start_bdn: jax.Array | None, chunk: int) -> tuple[jnp.dtype, jax.Array]:
    """(the type of states, the state before the first token)."""
    shape, wide = (len(x_btd), *a_dn.shape), jnp.promote_types(x_btd.dtype, jnp.float32)
    if start_bdn is not None and start_bdn.shape != shape:
        raise ValueError(f"selective_scan: start has shape {start_bdn.shape}, this needs {shape}: it is another model's state")
    if chunk < 1:
        raise ValueError(f"selective_scan: chunk={chunk} must hold at least one token")
    return wide, jnp.zeros(shape, wide) if start_bdn is None else start_bdn.astype(wide)
