"""Difficulty: one number a sequence, higher is harder.

Letters: n sequence, t token, v vocabulary. weight_nt is 1 where a token counts. All but compression() are jit-able and vmap-able.
"""

import zlib
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np


def length(weight_nt: jax.Array) -> jax.Array:
    """How many tokens."""
    return jnp.sum(weight_nt, axis=-1)


def rarity(token_nt: jax.Array, weight_nt: jax.Array, logp_v: jax.Array) -> jax.Array:
    """−Σ_t log p(token_t) under the unigram distribution (Platanios et al. 2019, arXiv 1903.09848, eq. 2); grows with length too."""
    return -jnp.sum(logp_v[token_nt] * weight_nt, axis=-1)


def unigram(token_nt: jax.Array, weight_nt: jax.Array, vocab_size: int) -> jax.Array:
    """logp_v: the log of each token's share among those that count, with one added to every count."""
    count_v = jnp.zeros(vocab_size).at[token_nt].add(weight_nt) + 1
    return jnp.log(count_v / jnp.sum(count_v))


def loss(nll_nt: jax.Array, weight_nt: jax.Array) -> jax.Array:
    """The mean negative log-likelihood a token, in nats, of whatever model gave nll; 0 for a sequence without tokens."""
    return jnp.sum(nll_nt * weight_nt, axis=-1) / jnp.maximum(jnp.sum(weight_nt, axis=-1), 1)


def perplexity(nll_nt: jax.Array, weight_nt: jax.Array) -> jax.Array:
    """exp of loss(): the same order, in perplexity."""
    return jnp.exp(loss(nll_nt, weight_nt))


def compression(texts: Iterable[bytes], level: int = 6) -> np.ndarray:
    """(N,) compressed bytes over bytes, by zlib on the host: low for repetitive text. Short texts come out above 1; an empty one has 0."""
    return np.array([len(zlib.compress(text, level)) / len(text) if text else 0.0 for text in texts])


def ease_first(difficulty_n: jax.Array, *, hardest_first: bool = False) -> jax.Array:
    """order_n: the sequences from the easiest on, or from the hardest for an anti-curriculum, the control. Equal ones stay in order."""
    return jnp.argsort(-difficulty_n if hardest_first else difficulty_n, stable=True)
