"""Chunks whose tokens write what is linear in the state before the chunk: the carry of the delta rule, with its backward pass."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Chunks(NamedTuple):
    """What the N chunks do to the state (B, H, K, V): w = given + taken S, then S ← kept ⊙ S + earlyᵀ w."""

    kept: jax.Array  # (N, B, H, K or 1, 1)
    given: jax.Array  # (N, B, H, C, V)
    taken: jax.Array  # (N, B, H, C, K)
    early: jax.Array  # (N, B, H, C, K)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def carried(prepare: Callable, finish: Callable, state_bhkv: jax.Array, *arrays: Any) -> tuple[jax.Array, jax.Array]:
    """(finish(rest, S before each chunk (N, B, H, K, V), w (N, B, H, C, V)), the last S) for chunks, rest = prepare(*arrays).

    The backward pass keeps w, from which the states follow without meeting `taken` again, and prepares anew. Of the adjoints only what one chunk hands to the chunk
    before it is made chunk by chunk; the rest is made for all at once.
    """
    return _forward(prepare, finish, state_bhkv, *arrays)[0]


def _forward(prepare, finish, state_bhkv, *arrays):
    chunks, rest = prepare(*arrays)

    def carry(state, chunk):
        w = chunk.given + jnp.matmul(chunk.taken, state, precision="highest")
        return chunk.kept * state + _written(chunk.early, w), (state, w)

    last, (before, w) = jax.lax.scan(carry, state_bhkv, chunks)
    return (finish(rest, before, w), last), (state_bhkv, arrays, w)


def _backward(prepare, finish, residuals, d_both):
    state_bhkv, arrays, w = residuals
    d_o, d_last = d_both
    (chunks, rest), d_prepare = jax.vjp(prepare, *arrays)
    _, before = jax.lax.scan(lambda state, chunk: (chunk[0] * state + chunk[1], state), state_bhkv, (chunks.kept, _written(chunks.early, w)))
    d_rest, d_before, d_w = jax.vjp(finish, rest, before, w)[1](d_o)

    def carry(d_after, chunk):
        kept, taken, early, d_before, d_w = chunk
        d_w = d_w + jnp.einsum("bhck,bhkv->bhcv", early, d_after, preferred_element_type=d_w.dtype)
        return kept * d_after + d_before + jnp.einsum("bhck,bhcv->bhkv", taken, d_w, precision="highest"), (d_after, d_w)

    d_state, (d_after, d_w) = jax.lax.scan(carry, d_last, (chunks.kept, chunks.taken, chunks.early, d_before, d_w), reverse=True)
    d_kept = jnp.sum(before * d_after, axis=-1, keepdims=True)
    d_kept = d_kept if chunks.kept.shape[-2] > 1 else jnp.sum(d_kept, axis=-2, keepdims=True)
    d_taken = jnp.einsum("nbhcv,nbhkv->nbhck", d_w, before, precision="highest")
    d_early = jnp.einsum("nbhcv,nbhkv->nbhck", w, d_after).astype(chunks.early.dtype)
    return d_state, *d_prepare((Chunks(d_kept, d_w, d_taken, d_early), d_rest))


def _written(early, w):
    return jnp.einsum("...ck,...cv->...kv", early, w.astype(early.dtype), preferred_element_type=w.dtype)


carried.defvjp(_forward, _backward)
