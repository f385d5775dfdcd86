"""Linear attention with decay (Katharopoulos et al. 2020, arXiv 2006.16236; Yang et al. 2023, arXiv 2312.06635): the recurrence of many mixers."""

import functools

import jax
import jax.numpy as jnp

from effllm.ops import chunks
from effllm.ops.tuned import tuned_chunk

IMPLEMENTATIONS = ("reference", "chunked")


def linear_attention(
    q_bthk: jax.Array,
    k_bthk: jax.Array,
    v_bthv: jax.Array,
    log_decay: jax.Array | None = None,
    *,
    bonus_hk: jax.Array | None = None,
    state_bhkv: jax.Array | None = None,
    reset_bt: jax.Array | None = None,
    real_bt: jax.Array | None = None,
    chunk: int | None = None,
    together: int = 32,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """S_t = a_t ⊙ S_{t−1} + k_t v_tᵀ, o_t = S_tᵀ q_t: (o (B, T, H, V) in v's dtype, the last S (B, H, K, V) in at least float32).

    log_decay = log a ≤ 0 in at least float32: None for a = 1 (linear attention), (H,) for one number a head (retention, Sun et al. 2023,
    arXiv 2307.08621), (B, T, H) for one a head and token (Mamba-2, Dao & Gu 2024, arXiv 2405.21060), (B, T, H, K) for one a channel (gated
    linear attention). With a `bonus` u a token meets the state before it, and itself through u (RWKV, Peng et al. 2024, arXiv 2404.05892):
    o_t = (S_{t−1} + u ⊙ k_t v_tᵀ)ᵀ q_t.

    reset_bt marks tokens before which S is emptied; where real_bt is False a token changes nothing, and its own output means nothing.
    state_bhkv is the S before the first token (default 0).

    implementation: "reference" steps through time; "chunked" (the default) computes within chunks of `chunk` tokens by products of matrices
    and carries S from chunk to chunk: O(T·(C·(K + V) + K·V)) time a head. Exponents are sums of log decays between two tokens, never above 0.
    A chunk of None is the one that was measured to be quickest on this platform near this shape (ops/tuned.json), or 64.
    Chunks are taken in parts of time, one part after another, of about `together` matrices (C, C), one for each chunk, row and head: the
    backward pass keeps S before each part and recomputes the rest, in memory O(T·(K + V)) and a part's. Few stay in a CPU's cache; where
    rows and heads are few, an accelerator wants more.

    Raises ValueError for arrays that do not fit one another, for decays of another shape or in half precision, for a state of another shape, for
    a chunk that is no power of two, and for an unknown implementation.
    """
    (batch, length, heads, width), wide = q_bthk.shape, jnp.promote_types(v_bthv.dtype, jnp.float32)
    shape = (batch, heads, width, v_bthv.shape[-1])
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"linear_attention has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
    chunks.check("linear_attention", q_bthk, v_bthv, k=k_bthk)
    if bonus_hk is not None and bonus_hk.shape != (heads, width):
        raise ValueError(f"linear_attention: bonus has shape {bonus_hk.shape}, it must be {(heads, width)}")
    state_bhkv = chunks.start(state_bhkv, shape, wide, "linear_attention")
    decay_bthk = chunks.widened(log_decay, q_bthk.shape, wide, "linear_attention")
    if real_bt is not None:
        k_bthk = jnp.where(real_bt[..., None, None], k_bthk, 0)
        decay_bthk = None if decay_bthk is None else jnp.where(real_bt[..., None, None], decay_bthk, 0)
    if chunk is None:
        by_channel = decay_bthk is not None and decay_bthk.shape[-1] > 1
        chunk = tuned_chunk(f"linear_attention, a decay a {'channel' if by_channel else 'head'}", q_bthk.shape, 64)
    arrays, size = (q_bthk, k_bthk, v_bthv, decay_bthk, reset_bt), chunks.chunk_size(length, chunk)
    if implementation == "reference":
        o_bthv, state_bhkv = _reference(bonus_hk, state_bhkv, *arrays)
    else:
        o_bthv, state_bhkv = chunks.by_parts(functools.partial(_chunked, size, bonus_hk), state_bhkv, arrays, size, together)
    return o_bthv.astype(v_bthv.dtype), state_bhkv


def _reference(bonus_hk, state_bhkv, q_bthk, k_bthk, v_bthv, decay_bthk, reset_bt):
    wide = state_bhkv.dtype

    def step(state_bhkv, token):
        q_bhk, k_bhk, v_bhv, decay_bhk, reset_b = token
        if reset_b is not None:
            state_bhkv = jnp.where(reset_b[:, None, None, None], 0, state_bhkv)
        new_bhkv = k_bhk[..., None] * v_bhv[..., None, :]
        seen_bhkv = state_bhkv if bonus_hk is None else state_bhkv + bonus_hk[..., None] * new_bhkv
        state_bhkv = new_bhkv + (state_bhkv if decay_bhk is None else jnp.exp(decay_bhk)[..., None] * state_bhkv)
        return state_bhkv, jnp.einsum("bhk,bhkv->bhv", q_bhk, state_bhkv if bonus_hk is None else seen_bhkv)

    tokens = *(x.astype(wide) for x in (q_bthk, k_bthk, v_bthv)), decay_bthk, reset_bt
    if decay_bthk is not None:
        tokens = *tokens[:3], jnp.broadcast_to(decay_bthk, (*q_bthk.shape[:3], decay_bthk.shape[-1])), reset_bt
    state_bhkv, o_tbhv = jax.lax.scan(step, state_bhkv, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tokens))
    return jnp.moveaxis(o_tbhv, 0, 1), state_bhkv


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(0,))
def _chunked(size, bonus_hk, state_bhkv, q_bthk, k_bthk, v_bthv, decay_bthk, reset_bt):
    wide, dtype = state_bhkv.dtype, v_bthv.dtype
    q, k, v = (chunks.cut(x, size) for x in (q_bthk, k_bthk, v_bthv))
    decay = None if decay_bthk is None else chunks.cut(decay_bthk, size)
    marks = chunks.mark(reset_bt, size)

    def product(equation, *operands):
        return jnp.einsum(equation, *(x.astype(dtype) for x in operands), preferred_element_type=wide)

    inclusive = bonus_hk is None
    (mixing,), sums = chunks.scores([(q, k)], decay, inclusive)
    if bonus_hk is not None:
        own = jnp.sum(q.astype(wide) * bonus_hk[:, None] * k, axis=-1)
        mixing = mixing + own[..., None] * jnp.eye(size, dtype=wide)
    late, early, kept = q, k, jnp.ones((), wide)
    if sums is not None:
        late, early, kept = q * jnp.exp(sums.until), k * jnp.exp(sums.after), jnp.exp(jnp.swapaxes(sums.whole, -1, -2))
    if marks is not None:
        mixing = jnp.where(marks.same, mixing, 0)
        late, early, kept = jnp.where(marks.reached, late, 0), jnp.where(marks.remains, early, 0), jnp.where(marks.kept, kept, 0)

    new = product("nbhck,nbhcv->nbhkv", early, v)

    def carry(state, chunk):
        kept, new = chunk
        return kept * state + new, state

    state, before = jax.lax.scan(carry, state_bhkv, (jnp.broadcast_to(kept, (*new.shape[:-1], 1)), new))
    o = product("nbhij,nbhjv->nbhiv", mixing, v) + product("nbhck,nbhkv->nbhcv", late, before)
    return chunks.join(o, q_bthk.shape[1]).astype(dtype), state
