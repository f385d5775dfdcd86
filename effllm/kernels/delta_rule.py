"""The delta rule, plain and gated, as one kernel a direction (Yang et al. 2024, arXiv 2406.06484 and 2412.06464)."""

import functools

import jax
import jax.numpy as jnp

from effllm import ops
from effllm.kernels.backends import BACKENDS
from effllm.kernels.decays import EMPTY, decayed
from effllm.kernels.each import map_chunks
from effllm.kernels.scan import Launch, scan_chunks
from effllm.kernels.tiles import dot, filled, from_heads, heads_first, places, unit_inverse, width
from effllm.ops import chunks
from effllm.ops.delta_rule import IMPLEMENTATIONS as PLAIN

IMPLEMENTATIONS = (*PLAIN, *BACKENDS)


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
    """ops.delta_rule, which says what it computes, with three more implementations: "pallas" (Triton on a GPU, Mosaic on a TPU), "interpret_gpu" and
    "interpret_tpu" (the same kernels in Pallas's interpreter).

    A kernel with a program for every chunk solves for what the chunk writes, U − W S (the WY form), in S's own precision, at least float32. Then, on a TPU, a
    program keeps S of one head in VMEM and takes chunk after chunk; on a GPU one does so for S alone, and there is a program for every chunk again. S before
    each chunk is kept for the backward pass. Chunks hold at least 16 tokens; K and V are
    filled up to powers of two. `together` is for the op's own form: a program takes one chunk at a time.
    """
    if implementation not in BACKENDS:
        if implementation not in (None, *PLAIN):
            raise ValueError(f"delta_rule has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
        options = {"state_bhkv": state_bhkv, "reset_bt": reset_bt, "real_bt": real_bt, "chunk": chunk, "together": together}
        return ops.delta_rule(q_bthk, k_bthk, v_bthv, beta_bth, log_decay, **options, implementation=implementation)
    chunks.check("delta_rule", q_bthk, v_bthv, k=k_bthk)
    (batch, length, heads, keys), values, wide = q_bthk.shape, v_bthv.shape[-1], jnp.promote_types(v_bthv.dtype, jnp.float32)
    state_bhkv = chunks.start(state_bhkv, (batch, heads, keys, values), wide, "delta_rule")
    decay = chunks.widened(log_decay, q_bthk.shape, wide, "delta_rule")
    if decay is None and reset_bt is not None:
        decay = jnp.zeros((batch, length, heads, 1), wide)
    beta_bth = beta_bth.astype(wide)
    if real_bt is not None:
        beta_bth = jnp.where(real_bt[..., None], beta_bth, 0)
        decay = None if decay is None else jnp.where(real_bt[..., None, None], decay, 0)
    if reset_bt is not None:
        decay = jnp.where(reset_bt[..., None, None], EMPTY, decay)
    size = max(16, chunks.chunk_size(length, 64 if chunk is None else chunk))
    count = -(-length // size)
    wide_k, wide_v = width(keys), width(values)
    stream = functools.partial(heads_first, batch=batch, time=count * size)
    streams = [stream(q_bthk, size=wide_k), stream(k_bthk, size=wide_k), stream(v_bthv, size=wide_v), stream(beta_bth[..., None], size=1)]
    streams += [] if decay is None else [stream(decay, size=1 if decay.shape[-1] == 1 else wide_k)]
    start = filled(state_bhkv.reshape(batch * heads, keys, values), wide_k, wide_v)
    q, *others = streams
    solved = map_chunks(_solved, tuple(others), ((size, wide_v, wide), (size, wide_k, wide)), count, implementation)
    streams = q, others[0], *solved, *others[3:]
    columns = tuple(stream is solved[0] for stream in streams)
    (last,), (o,) = scan_chunks(_step, (), (start,), streams, ((size, wide_v, v_bthv.dtype),), Launch(count, implementation, columns))
    return from_heads(o, v_bthv.shape), last[:, :keys, :values].reshape(state_bhkv.shape)


def _solved(chunk):
    """(U, W) of k (C, K), v (C, V), β (C, 1), log decays (C, 1) or (C, K) or none: what is written to S (K, V) is U − W S."""
    k, v, beta, *decay = chunk
    i, j = places(len(k))
    exact = functools.partial(dot, dtype=beta.dtype, wide=beta.dtype)
    (overlap,), (asked,), _, _ = decayed((k,), k, decay[0] if decay else None, v.dtype, beta.dtype)
    inverse = unit_inverse(jnp.where(i > j, beta * overlap, 0))
    return exact(inverse, beta * v), exact(inverse, beta * asked)


def _step(fixed, carry, chunk):
    """q, k (C, K), U (C, V), W (C, K), log decays (C, 1) or (C, K) or none; S (K, V)."""
    (s_kv,), (q, k, u, w, *decay) = carry, chunk
    product = functools.partial(dot, dtype=q.dtype, wide=s_kv.dtype)
    (mixing,), (late,), early, kept = decayed((q,), k, decay[0] if decay else None, q.dtype, s_kv.dtype)
    written = u - dot(w, s_kv, dtype=s_kv.dtype, wide=s_kv.dtype)
    o_cv = product(mixing, written) + product(late, s_kv)
    return (kept * s_kv + product(early, written, (True, False)),), (o_cv,)
