"""Linear attention with decay as one kernel a direction (Yang et al. 2023, arXiv 2312.06635; Dao & Gu 2024, arXiv 2405.21060)."""

import functools

import jax
import jax.numpy as jnp

from effllm import ops
from effllm.kernels.backends import BACKENDS
from effllm.kernels.decays import EMPTY, decayed
from effllm.kernels.scan import Launch, scan_chunks
from effllm.kernels.tiles import dot, filled, from_heads, heads_first, places, width
from effllm.ops import chunks
from effllm.ops.linear_attention import IMPLEMENTATIONS as PLAIN

IMPLEMENTATIONS = (*PLAIN, *BACKENDS)


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
    """ops.linear_attention, which says what it computes, with three more implementations: "pallas" (Triton on a GPU, Mosaic on a TPU), "interpret_gpu" and
    "interpret_tpu" (the same kernels in Pallas's interpreter).

    On a TPU a program keeps S of one head in VMEM and takes chunk after chunk; on a GPU one does so for S alone, then there is a program for every chunk. S before
    each chunk is kept for the backward pass, O(T/C·K·V) memory. A decay a head costs one
    product more in a chunk; a decay a channel log₂ C levels of three products, so that exponents never exceed 0. Chunks hold at least 16 tokens; K and V are
    filled up to powers of two. `together` is for the op's own form: a program takes one chunk at a time.
    """
    if implementation not in BACKENDS:
        if implementation not in (None, *PLAIN):
            raise ValueError(f"linear_attention has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
        options = {"bonus_hk": bonus_hk, "state_bhkv": state_bhkv, "reset_bt": reset_bt, "real_bt": real_bt, "chunk": chunk, "together": together}
        return ops.linear_attention(q_bthk, k_bthk, v_bthv, log_decay, **options, implementation=implementation)
    chunks.check("linear_attention", q_bthk, v_bthv, k=k_bthk)
    (batch, length, heads, keys), values, wide = q_bthk.shape, v_bthv.shape[-1], jnp.promote_types(v_bthv.dtype, jnp.float32)
    state_bhkv = chunks.start(state_bhkv, (batch, heads, keys, values), wide, "linear_attention")
    decay = chunks.widened(log_decay, q_bthk.shape, wide, "linear_attention")
    if decay is None and reset_bt is not None:
        decay = jnp.zeros((batch, length, heads, 1), wide)
    if real_bt is not None:
        k_bthk = jnp.where(real_bt[..., None, None], k_bthk, 0)
        decay = None if decay is None else jnp.where(real_bt[..., None, None], decay, 0)
    if reset_bt is not None:
        decay = jnp.where(reset_bt[..., None, None], EMPTY, decay)
    size = max(16, chunks.chunk_size(length, 64 if chunk is None else chunk))
    count = -(-length // size)
    wide_k, wide_v = width(keys), width(values)
    stream = functools.partial(heads_first, batch=batch, time=count * size)
    streams = [stream(q_bthk, size=wide_k), stream(k_bthk, size=wide_k), stream(v_bthv, size=wide_v)]
    streams += [] if decay is None else [stream(decay, size=1 if decay.shape[-1] == 1 else wide_k)]
    fixed = () if bonus_hk is None else (filled(jnp.tile(bonus_hk.astype(wide)[:, None], (batch, 1, 1)), 1, wide_k),)
    columns = tuple(stream is streams[2] for stream in streams)
    start = filled(state_bhkv.reshape(batch * heads, keys, values), wide_k, wide_v)
    (last,), (o,) = scan_chunks(_step, fixed, (start,), tuple(streams), ((size, wide_v, v_bthv.dtype),), Launch(count, implementation, columns))
    return from_heads(o, v_bthv.shape), last[:, :keys, :values].reshape(state_bhkv.shape)


def _step(fixed, carry, chunk):
    """q, k (C, K), v (C, V), log decays (C, 1) or (C, K) or none; u (1, K) or none; S (K, V)."""
    (s_kv,), (q, k, v, *decay) = carry, chunk
    product = functools.partial(dot, dtype=v.dtype, wide=s_kv.dtype)
    # With a bonus a token meets the state before its own key, and its own decay is not between the two; its reset is.
    reset = jnp.where(decay[0] < EMPTY / 2, decay[0], 0.0) if fixed and decay else 0.0
    (mixing,), (late,), early, kept = decayed((q,), k, decay[0] if decay else None, v.dtype, s_kv.dtype, bool(fixed), reset)
    if fixed:
        i, j = places(len(q))
        mixing = mixing + jnp.where(i == j, jnp.sum(q * fixed[0] * k, axis=1, keepdims=True), 0)
    o_cv = product(mixing, v) + product(late, s_kv)
    return (kept * s_kv + product(early, v, (True, False)),), (o_cv,)

