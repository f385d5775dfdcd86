"""The delta rule as a recurrence over matrices (Schlag et al. 2021, arXiv 2102.11174), plain and gated (Yang et al. 2024, arXiv 2412.06464)."""

import functools

import jax
import jax.numpy as jnp

from effllm.ops import chunks
from effllm.ops.carried import Chunks, carried
from effllm.ops.tuned import tuned_chunk

IMPLEMENTATIONS = ("reference", "chunked")


def delta_rule(
    q_bthk: jax.Array,
    k_bthk: jax.Array,
    v_bthv: jax.Array,
    beta_bth: jax.Array,
    log_decay: jax.Array | None = None,
    *,
    state_bhkv: jax.Array | None = None,
    reset_bt: jax.Array | None = None,
    real_bt: jax.Array | None = None,
    chunk: int | None = None,
    together: int = 32,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """S_t = S̃_t + β_t k_t (v_t − S̃_tᵀ k_t)ᵀ with S̃_t = a_t ⊙ S_{t−1}, o_t = S_tᵀ q_t: (o (B, T, H, V) in v's dtype, the last S (B, H, K, V)
    in at least float32).

    Where linear attention adds k vᵀ, this first takes out what the key held: a step of gradient descent on ½‖Sᵀk − v‖² at rate β. It is
    stable for ‖k‖ = 1 and 0 ≤ β ≤ 2. log_decay = log a ≤ 0 as in `linear_attention`: None, (H,), (B, T, H) (gated delta rule) or
    (B, T, H, K) (Kimi Linear, arXiv 2510.26692). reset_bt, real_bt and state_bhkv too.

    implementation: "reference" steps through time; "chunked" (the default) is the WY form of Yang et al. 2024 (arXiv 2406.06484): within a
    chunk the corrected values W solve (I + tril(β k kᵀ ⊙ decay, −1)) W = β (v − decayed Sᵀk), in at least float32.
    O(T·(C·(K + V) + C² + K·V)) time a head; `chunk`, `together` and memory as in `linear_attention`, and W, which
    the backward pass keeps. Derivatives in reverse mode only (jax.grad, jax.vjp).

    Raises ValueError for arrays that do not fit one another, for decays of another shape or in half precision, for a state of another shape, for
    a chunk that is no power of two, and for an unknown implementation.
    """
    (batch, length, heads, width), wide = q_bthk.shape, jnp.promote_types(v_bthv.dtype, jnp.float32)
    shape = (batch, heads, width, v_bthv.shape[-1])
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"delta_rule has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
    chunks.check("delta_rule", q_bthk, v_bthv, k=k_bthk)
    if beta_bth.shape != q_bthk.shape[:3]:
        raise ValueError(f"delta_rule: beta has shape {beta_bth.shape}, it must be {q_bthk.shape[:3]}")
    state_bhkv = chunks.start(state_bhkv, shape, wide, "delta_rule")
    decay_bthk = chunks.widened(log_decay, q_bthk.shape, wide, "delta_rule")
    beta_bth = beta_bth.astype(wide)
    if real_bt is not None:
        beta_bth = jnp.where(real_bt[..., None], beta_bth, 0)
        decay_bthk = None if decay_bthk is None else jnp.where(real_bt[..., None, None], decay_bthk, 0)
    chunk = tuned_chunk("delta_rule", q_bthk.shape, 64) if chunk is None else chunk
    arrays, size = (q_bthk, k_bthk, v_bthv, beta_bth, decay_bthk, reset_bt), chunks.chunk_size(length, chunk)
    if implementation == "reference":
        o_bthv, state_bhkv = _reference(state_bhkv, *arrays)
    else:
        o_bthv, state_bhkv = chunks.by_parts(functools.partial(_chunked, size), state_bhkv, arrays, size, together)
    return o_bthv.astype(v_bthv.dtype), state_bhkv


def _reference(state_bhkv, q_bthk, k_bthk, v_bthv, beta_bth, decay_bthk, reset_bt):
    wide = state_bhkv.dtype

    def step(state_bhkv, token):
        q_bhk, k_bhk, v_bhv, beta_bh, decay_bhk, reset_b = token
        if reset_b is not None:
            state_bhkv = jnp.where(reset_b[:, None, None, None], 0, state_bhkv)
        if decay_bhk is not None:
            state_bhkv = jnp.exp(decay_bhk)[..., None] * state_bhkv
        error_bhv = v_bhv - jnp.einsum("bhkv,bhk->bhv", state_bhkv, k_bhk)
        state_bhkv = state_bhkv + jnp.einsum("bh,bhk,bhv->bhkv", beta_bh, k_bhk, error_bhv)
        return state_bhkv, jnp.einsum("bhk,bhkv->bhv", q_bhk, state_bhkv)

    if decay_bthk is not None:
        decay_bthk = jnp.broadcast_to(decay_bthk, (*q_bthk.shape[:3], decay_bthk.shape[-1]))
    tokens = *(x.astype(wide) for x in (q_bthk, k_bthk, v_bthv)), beta_bth, decay_bthk, reset_bt
    state_bhkv, o_tbhv = jax.lax.scan(step, state_bhkv, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tokens))
    return jnp.moveaxis(o_tbhv, 0, 1), state_bhkv


def _chunked(size, state_bhkv, *arrays):
    wide, dtype, length = state_bhkv.dtype, arrays[2].dtype, arrays[0].shape[1]
    return carried(functools.partial(_prepare, size, wide), functools.partial(_finish, length, dtype), state_bhkv, *arrays)


def _prepare(size, wide, q_bthk, k_bthk, v_bthv, beta_bth, decay_bthk, reset_bt):
    """(what the chunks do to the state, (how the queries weigh what their chunk writes, the queries as the state before it meets them))."""
    dtype = v_bthv.dtype
    q, k, v, beta = (chunks.cut(x, size) for x in (q_bthk, k_bthk, v_bthv, beta_bth[..., None]))
    decay = None if decay_bthk is None else chunks.cut(decay_bthk, size)
    marks = chunks.mark(reset_bt, size)

    (mixing, overlap), sums = chunks.scores([(q, k), (k, k)], decay)
    late, asked, early, kept = q, k.astype(wide), k, jnp.ones((1, 1), wide)
    if sums is not None:
        late, asked, early = q * jnp.exp(sums.until), k * jnp.exp(sums.until), k * jnp.exp(sums.after)
        kept = jnp.exp(jnp.swapaxes(sums.whole, -1, -2))
    if marks is not None:
        mixing, overlap = jnp.where(marks.same, mixing, 0), jnp.where(marks.same, overlap, 0)
        late, asked, early = jnp.where(marks.reached, late, 0), jnp.where(marks.reached, asked, 0), jnp.where(marks.remains, early, 0)
        kept = jnp.where(marks.kept, kept, 0)

    # What each token writes is linear in the state before the chunk.
    solved = chunks.unit_inverse(beta * overlap) * jnp.swapaxes(beta, -1, -2)
    given = jnp.matmul(solved, v.astype(wide), precision="highest")
    taken = -jnp.matmul(solved, asked, precision="highest")
    kept = jnp.where(jnp.ones_like(taken[..., :1, :1], bool), kept, 0)  # varies over a mesh as the rest does, in shard_map too
    return Chunks(kept, given.astype(wide), taken.astype(wide), early.astype(dtype)), (mixing.astype(dtype), late.astype(dtype))


def _finish(length, dtype, rest, before, w):
    mixing, late = rest
    o = jnp.einsum("nbhij,nbhjv->nbhiv", mixing, w.astype(dtype), preferred_element_type=w.dtype)
    o = o + jnp.einsum("nbhck,nbhkv->nbhcv", late, before.astype(dtype), preferred_element_type=w.dtype)
    return chunks.join(o, length).astype(dtype)
