"""What the tokens of a chunk decay between each other: exponents that are sums of log decays ≤ 0, never differences of long ones."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from effllm.kernels.tiles import across, dot, down, places

EMPTY = -1e30  # the log decay that empties a state; sums with it stay finite where −∞ times 0 would not
Tiles = tuple[jax.Array, ...]


def decayed(
    lefts: Sequence[jax.Array], right: jax.Array, decay: jax.Array | None, met: jax.Array, product: Callable, reset: jax.Array | float = 0
) -> tuple[Tiles, Tiles, jax.Array, jax.Array | int]:
    """(scores, lates, early, kept) of a chunk with log decays (C, 1), (C, K) or None.

    scores: left rightᵀ (C, C) for each of `lefts` (C, K), where `met` and decayed from token j to token i, else 0. lates: lefts with what has decayed since the
    chunk began. early: `right` with what will decay until it ends. kept: what is left of the state, (1, 1), (K, 1) or 1. Where met leaves out i = j, i's own
    decay is left out too, but for its `reset`. A decay a head costs one product more; a decay a channel one and a score's for each of log₂ C levels.
    """
    if decay is None:
        return tuple(jnp.where(met, product(left, right, (False, True)), 0) for left in lefts), tuple(lefts), right, 1
    return (_a_head if decay.shape[1] == 1 else _a_channel)(lefts, right, decay, met, product, reset)


def _a_head(lefts, right, g, met, product, reset):
    i, j = places(len(right))
    until = reset + jnp.sum(jnp.where(met, across(g), 0), axis=1, keepdims=True)
    after = jnp.sum(jnp.where(i < j, across(g), 0), axis=1, keepdims=True)
    between = jnp.exp(jnp.where(met, reset + dot(met.astype(g.dtype), jnp.where(i > j, g, 0), wide=g.dtype), EMPTY))
    scores = tuple(product(left, right, (False, True)) * between for left in lefts)
    return scores, tuple(left * jnp.exp(until) for left in lefts), right * jnp.exp(after), jnp.exp(jnp.sum(g, axis=0, keepdims=True))


def _a_channel(lefts, right, g, met, product, reset):
    """Blocks of 1, 2, 4, … tokens are joined: what i has decayed since its block began, what j will until its block ends."""
    i, j = places(len(right))

    def sums(which):
        return dot(which.astype(g.dtype), g, wide=g.dtype)

    scores = tuple(jnp.where((i == j) & met, jnp.sum(left * right, axis=1, keepdims=True).astype(g.dtype), 0) for left in lefts)
    for level in range(len(right).bit_length() - 1):
        block_i, block_j = i >> level, j >> level
        since, until = reset + sums((block_i == block_j) & met), sums((block_i == block_j) & (i < j))
        since, until, pairs = jnp.exp(since), right * jnp.exp(until), (block_i == block_j + 1) & (block_i & 1 == 1)
        scores = tuple(jnp.where(pairs, product(left * since, until, (False, True)), score) for left, score in zip(lefts, scores))
    lates = jnp.exp(reset + sums(met))
    return scores, tuple(left * lates for left in lefts), right * jnp.exp(sums(i < j)), down(jnp.exp(jnp.sum(g, axis=0, keepdims=True)))
