"""What the tokens of a chunk decay between each other: exponents that are sums of log decays ≤ 0, never differences of long ones."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from effllm.kernels.tiles import across, dot, down, places, product

EMPTY = -1e30  # the log decay that empties a state; sums with it stay finite where −∞ times 0 would not
Tiles = tuple[jax.Array, ...]


def decayed(
    lefts: Sequence[jax.Array], right: jax.Array, decay: jax.Array | None, dtype, wide, strict: bool = False, reset: jax.Array | float = 0
) -> tuple[Tiles, Tiles, jax.Array, jax.Array | int]:
    """(scores, lates, early, kept) of a chunk with log decays (C, 1), (C, K) or None.

    scores: left rightᵀ (C, C) for each of `lefts` (C, K), decayed from token j to token i ≥ j, or i > j if `strict`, else 0; factors are rounded to `dtype`,
    sums are `wide`. lates: lefts with what has decayed since the chunk began. early: `right` with what will decay until it ends. kept: what is left of the
    state, (1, 1), (K, 1) or 1. If `strict`, i's own decay is left out, but for its `reset`. A decay a head costs one product more; a decay a channel one and a
    score's for each of log₂ C levels.
    """
    if decay is None:
        met = _met(len(right), strict)
        return tuple(jnp.where(met, dot(left, right, (False, True), dtype, wide), 0) for left in lefts), tuple(lefts), right, 1
    return (_a_head if decay.shape[1] == 1 else _a_channel)(lefts, right, decay, dtype, strict, reset)


def _met(size, strict):
    i, j = places(size)
    return i > j if strict else i >= j


def _a_head(lefts, right, g, dtype, strict, reset):
    (i, j), met = places(len(right)), _met(len(right), strict)
    until = reset + jnp.sum(jnp.where(met, across(g), 0), axis=1, keepdims=True)
    after = jnp.sum(jnp.where(i < j, across(g), 0), axis=1, keepdims=True)
    between = jnp.exp(jnp.where(met, reset + dot(met.astype(g.dtype), jnp.where(i > j, g, 0), wide=g.dtype), EMPTY))
    scores = tuple(dot(left, right, (False, True), dtype, g.dtype) * between for left in lefts)
    return scores, tuple(left * jnp.exp(until) for left in lefts), right * jnp.exp(after), jnp.exp(jnp.sum(g, axis=0, keepdims=True))


def _a_channel(lefts, right, g, dtype, strict, reset):
    i, j = places(len(right))

    def sums(which):
        return dot(which.astype(g.dtype), g, wide=g.dtype)

    scores = _joined(tuple(lefts), right, g, reset, dtype, strict)
    if not strict:
        scores = tuple(score + jnp.where(i == j, jnp.sum(left * right, axis=1, keepdims=True).astype(g.dtype), 0) for left, score in zip(lefts, scores))
    lates = jnp.exp(reset + sums(_met(len(right), strict)))
    return scores, tuple(left * lates for left in lefts), right * jnp.exp(sums(i < j)), down(jnp.exp(jnp.sum(g, axis=0, keepdims=True)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _joined(lefts, right, g, reset, dtype, strict):
    """Scores of tokens i > j. Blocks of 1, 2, 4, … tokens are joined: what i has decayed since its block began, what j will until its block ends.

    A loop, whose masks depend on its number: Triton would keep masks of all levels in shared memory, more than there is. `reset` has no gradient: where it is
    not 0, what it decays is 0.
    """
    return _joined_forward(lefts, right, g, reset, dtype, strict)[0]


def _joined_forward(lefts, right, g, reset, dtype, strict):
    def level(number, scores):
        since, until, _, pairs = _level(right, g, reset, strict, number)
        return tuple(jnp.where(pairs, product(left * since, right * until, (False, True), dtype, g.dtype), score) for left, score in zip(lefts, scores))

    size = len(right)
    scores = jax.lax.fori_loop(0, size.bit_length() - 1, level, tuple(jnp.zeros((size, size), g.dtype) for _ in lefts))
    return scores, (lefts, right, g, reset)


def _level(right, g, reset, strict, number):
    """(decay since, decay until, masks of what they sum, pairs of tokens) of blocks of 2^number tokens."""
    i, j = places(len(right))
    block_i, block_j = i >> number, j >> number
    masks = [((block_i == block_j) & which).astype(g.dtype) for which in (_met(len(right), strict), i < j)]
    since, until = (product(mask, g, wide=g.dtype) for mask in masks)
    return jnp.exp(reset + since), jnp.exp(until), masks, (block_i == block_j + 1) & (block_i & 1 == 1)


def _joined_backward(dtype, strict, residuals, d_scores):
    lefts, right, g, reset = residuals

    def level(number, carry):
        d_lefts, d_right, d_g = carry
        since, until, masks, pairs = _level(right, g, reset, strict, number)
        d_since, d_until, more = 0, 0, []
        for left, d_score in zip(lefts, d_scores):
            d_score = jnp.where(pairs, d_score, 0)
            d_late = product(d_score, right * until, (False, False), dtype, g.dtype) * since
            d_early = product(d_score, left * since, (True, False), dtype, g.dtype) * until
            d_since, d_until = d_since + d_late * left, d_until + d_early * right
            d_right, more = d_right + d_early, [*more, d_late]
        d_g = d_g + sum(product(mask, d, (True, False), wide=g.dtype) for mask, d in zip(masks, (d_since, d_until)))
        return tuple(d + m for d, m in zip(d_lefts, more)), d_right, d_g

    zeros = tuple(jnp.zeros(left.shape, g.dtype) for left in lefts), jnp.zeros(right.shape, g.dtype), jnp.zeros(g.shape, g.dtype)
    d_lefts, d_right, d_g = jax.lax.fori_loop(0, len(right).bit_length() - 1, level, zeros)
    return tuple(d.astype(left.dtype) for d, left in zip(d_lefts, lefts)), d_right.astype(right.dtype), d_g, jax.tree.map(jnp.zeros_like, reset)


_joined.defvjp(_joined_forward, _joined_backward)
