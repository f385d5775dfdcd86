"""The selective state-space recurrence of Mamba (Gu & Dao 2023, arXiv 2312.00752)."""

import jax
import jax.numpy as jnp

from effllm.ops.linear_recurrence import linear_recurrence

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
    chunk: int = 8,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(y (B, T, D), last h (B, D, N)) of h_t = exp(dt_t A) ⊙ h_{t−1} + dt_t x_t B_tᵀ, y_t = h_t C_t, from h_{−1} = start, or zero.

    Each of D channels has N states; dt > 0 per channel, A < 0. Where reset_bt is true h forgets all before it; where real_bt is false h stays as
    it is (padding). States and y in at least float32.

    implementation: "reference" takes one step after another; "chunked" (the default) goes by chunks of `chunk` tokens, each a parallel
    recurrence over (B, chunk, D, N), recomputed in the backward pass: states of all T tokens never exist. Time O(T·D·N), memory
    O(T·D + chunk·D·N + (T/chunk)·D·N).

    Raises ValueError for a `start` of another shape, a chunk below 1, and an unknown implementation.
    """
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"selective_scan has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
    (batch, length, width), states = x_btd.shape, a_dn.shape[1]
    wide, start_bdn = checked(x_btd, a_dn, start_bdn, chunk)
    real_bt = jnp.ones((batch, length), bool) if real_bt is None else real_bt
    reset_bt = jnp.zeros((batch, length), bool) if reset_bt is None else reset_bt
    chunk = 1 if implementation == "reference" else min(chunk, length)
    chunks = -(-length // chunk)

    def cut(x_bt):
        """(chunks, B, chunk, …); the last chunk is filled with padding."""
        x_bt = jnp.pad(x_bt, ((0, 0), (0, chunks * chunk - length), *((0, 0),) * (x_bt.ndim - 2)))
        return jnp.moveaxis(x_bt.reshape(batch, chunks, chunk, *x_bt.shape[2:]), 1, 0)

    def part(h_bdn, cuts):
        x, dt, b, c, real, reset = (a.astype(wide) if a.dtype != bool else a for a in cuts)
        decay = jnp.exp(jnp.einsum("btd,dn->btdn", dt, a_dn))
        added = jnp.einsum("btd,btn->btdn", dt * x, b)
        if implementation == "reference":
            kept = jnp.where(reset[..., None, None], 0, decay) * h_bdn[:, None] + added
            h_btdn = jnp.where(real[..., None, None], kept, h_bdn[:, None])
        else:
            flat = (batch, chunk, width * states)
            h_btm, _ = linear_recurrence(decay.reshape(flat), added.reshape(flat), h_bdn.reshape(batch, -1), real_bt=real, reset_bt=reset)
            h_btdn = h_btm.reshape(batch, chunk, width, states)
        return h_btdn[:, -1], jnp.einsum("btdn,btn->btd", h_btdn, c)

    part = part if implementation == "reference" else jax.checkpoint(part, prevent_cse=False)
    if length == 1:
        last_bdn, y_btd = part(start_bdn, (x_btd, dt_btd, b_btn, c_btn, real_bt, reset_bt))
        return y_btd, last_bdn
    last_bdn, y_cbtd = jax.lax.scan(part, start_bdn, tuple(map(cut, (x_btd, dt_btd, b_btn, c_btn, real_bt, reset_bt))))
    return jnp.moveaxis(y_cbtd, 0, 1).reshape(batch, -1, width)[:, :length], last_bdn


def checked(x_btd: jax.Array, a_dn: jax.Array, start_bdn: jax.Array | None, chunk: int) -> tuple[jnp.dtype, jax.Array]:
    """(the type of states, the state before the first token)."""
    shape, wide = (len(x_btd), *a_dn.shape), jnp.promote_types(x_btd.dtype, jnp.float32)
    if start_bdn is not None and start_bdn.shape != shape:
        raise ValueError(f"selective_scan: start has shape {start_bdn.shape}, this needs {shape}: it is another model's state")
    if chunk < 1:
        raise ValueError(f"selective_scan: chunk={chunk} must hold at least one token")
    return wide, jnp.zeros(shape, wide) if start_bdn is None else start_bdn.astype(wide)
