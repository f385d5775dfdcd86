"""A recurrence whose transition is diagonal plus low rank: the generalised delta rule of RWKV-7 (Peng et al. 2025, arXiv 2503.14456)."""

import functools

import jax
import jax.numpy as jnp

from effllm.ops import chunks

IMPLEMENTATIONS = ("reference", "chunked")


def dplr(
    q_bthk: jax.Array,
    k_bthk: jax.Array,
    v_bthv: jax.Array,
    read_bthk: jax.Array,
    write_bthk: jax.Array,
    log_decay: jax.Array,
    *,
    state_bhkv: jax.Array | None = None,
    reset_bt: jax.Array | None = None,
    real_bt: jax.Array | None = None,
    chunk: int = 32,
    together: int = 32,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """S_t = a_t ⊙ S_{t−1} + e_t (S_{t−1}ᵀ r_t)ᵀ + k_t v_tᵀ, o_t = S_tᵀ q_t: (o (B, T, H, V) in v's dtype, the last S (B, H, K, V) in at least
    float32), r being `read` and e `write`.

    The delta rule is r = k, e = −β a ⊙ k; here what is read need not be what is written, and it is read before the decay. log_decay = log a
    ≤ 0, reset_bt, real_bt and state_bhkv are as in `linear_attention`.

    implementation: "reference" steps through time; "chunked" (the default) solves for what all tokens of a chunk read:
    (I − tril(r eᵀ ⊙ decay, −1)) U = decayed Sᵀr + tril(r kᵀ ⊙ decay, −1) V, in at least float32. O(T·(C·(K + V) + C² + K·V)) time a head;
    memory and `together` as in `linear_attention`.

    Raises ValueError for arrays that do not fit one another, for decays of another shape or in half precision, for a state of another shape, for
    a chunk that is no power of two, and for an unknown implementation.
    """
    (batch, length, heads, width), wide = q_bthk.shape, jnp.promote_types(v_bthv.dtype, jnp.float32)
    shape = (batch, heads, width, v_bthv.shape[-1])
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"dplr has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
    chunks.check("dplr", q_bthk, v_bthv, k=k_bthk, read=read_bthk, write=write_bthk)
    state_bhkv = chunks.start(state_bhkv, shape, wide, "dplr")
    decay_bthk = chunks.widened(log_decay, q_bthk.shape, wide, "dplr")
    if real_bt is not None:
        k_bthk, write_bthk, decay_bthk = (jnp.where(real_bt[..., None, None], x, 0) for x in (k_bthk, write_bthk, decay_bthk))
    arrays, size = (q_bthk, k_bthk, v_bthv, read_bthk, write_bthk, decay_bthk, reset_bt), chunks.chunk_size(length, chunk)
    if implementation == "reference":
        o_bthv, state_bhkv = _reference(state_bhkv, *arrays)
    else:
        o_bthv, state_bhkv = chunks.by_parts(functools.partial(_chunked, size), state_bhkv, arrays, size, together)
    return o_bthv.astype(v_bthv.dtype), state_bhkv


def _reference(state_bhkv, q_bthk, k_bthk, v_bthv, read_bthk, write_bthk, decay_bthk, reset_bt):
    wide = state_bhkv.dtype

    def step(state_bhkv, token):
        q_bhk, k_bhk, v_bhv, read_bhk, write_bhk, decay_bhk, reset_b = token
        if reset_b is not None:
            state_bhkv = jnp.where(reset_b[:, None, None, None], 0, state_bhkv)
        found_bhv = jnp.einsum("bhkv,bhk->bhv", state_bhkv, read_bhk)
        state_bhkv = jnp.exp(decay_bhk)[..., None] * state_bhkv + write_bhk[..., None] * found_bhv[..., None, :] + k_bhk[..., None] * v_bhv[..., None, :]
        return state_bhkv, jnp.einsum("bhk,bhkv->bhv", q_bhk, state_bhkv)

    decay_bthk = jnp.broadcast_to(decay_bthk, (*q_bthk.shape[:3], decay_bthk.shape[-1]))
    tokens = *(x.astype(wide) for x in (q_bthk, k_bthk, v_bthv, read_bthk, write_bthk)), decay_bthk, reset_bt
    state_bhkv, o_tbhv = jax.lax.scan(step, state_bhkv, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tokens))
    return jnp.moveaxis(o_tbhv, 0, 1), state_bhkv


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(0,))
def _chunked(size, state_bhkv, q_bthk, k_bthk, v_bthv, read_bthk, write_bthk, decay_bthk, reset_bt):
    wide, dtype = state_bhkv.dtype, v_bthv.dtype
    q, k, v, read, write, decay = (chunks.cut(x, size) for x in (q_bthk, k_bthk, v_bthv, read_bthk, write_bthk, decay_bthk))
    marks = chunks.mark(reset_bt, size)

    def product(equation, *operands):
        return jnp.einsum(equation, *(x.astype(dtype) for x in operands), preferred_element_type=wide)

    # The rows of scores are what asks (queries after their own token, reads before it), the columns what was put in (keys and writes).
    shown, sums = chunks.scores([(q, k), (q, write)], decay)
    found, before = chunks.scores([(read, k), (read, write)], decay, inclusive=False)
    late, asked = q * jnp.exp(sums.until), read.astype(wide) * jnp.exp(before.until)
    early, early_write = k * jnp.exp(sums.after), write * jnp.exp(sums.after)
    kept = jnp.exp(jnp.swapaxes(sums.whole, -1, -2))
    if marks is not None:
        shown, found = ([jnp.where(marks.same, x, 0) for x in both] for both in (shown, found))
        late, asked = (jnp.where(marks.reached, x, 0) for x in (late, asked))
        early, early_write, kept = jnp.where(marks.remains, early, 0), jnp.where(marks.remains, early_write, 0), jnp.where(marks.kept, kept, 0)

    # What each token reads is linear in the state before the chunk: u = given + taken S.
    inverse = chunks.unit_inverse(-found[1])
    given = jnp.matmul(inverse, product("nbhij,nbhjv->nbhiv", found[0], v), precision="highest")
    taken = jnp.matmul(inverse, asked, precision="highest")
    new = product("nbhck,nbhcv->nbhkv", early, v)

    def carry(state, chunk):
        kept, given, taken, early_write, new = chunk
        u = given + jnp.matmul(taken, state, precision="highest")
        return kept * state + new + product("bhck,bhcv->bhkv", early_write, u), (state, u)

    kept = jnp.broadcast_to(kept, (*taken.shape[:3], kept.shape[-2], 1))
    state, (states, u) = jax.lax.scan(carry, state_bhkv, (kept, given, taken, early_write, new))
    o = product("nbhij,nbhjv->nbhiv", shown[0], v) + product("nbhij,nbhjv->nbhiv", shown[1], u) + product("nbhck,nbhkv->nbhcv", late, states)
    return chunks.join(o, q_bthk.shape[1]).astype(dtype), state
