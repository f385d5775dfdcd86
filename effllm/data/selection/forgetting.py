"""Forgetting events.

Letters: e epoch (or any evaluation), n example.
"""

import jax
import jax.numpy as jnp


def forgetting_events(correct_en: jax.Array) -> jax.Array:
    """(N,) int32: how often an example went from right to wrong, from one evaluation to the next (Toneva et al. 2019, arXiv 1812.05159).

    One that was never right counts E, more than any that was: it is kept where unforgettable ones (0) are pruned. correct_en: bool; for
    language models "the loss is below a threshold" is a common stand-in. Update online with forgetting_update().
    """
    correct_en = jnp.asarray(correct_en, bool)
    events_n = jnp.sum(correct_en[:-1] & ~correct_en[1:], axis=0, dtype=jnp.int32)
    return jnp.where(jnp.any(correct_en, axis=0), events_n, correct_en.shape[0])


def forgetting_update(events_n: jax.Array, before_n: jax.Array, now_n: jax.Array) -> jax.Array:
    """events_n plus one where an example was right and is no longer."""
    return events_n + (jnp.asarray(before_n, bool) & ~jnp.asarray(now_n, bool)).astype(events_n.dtype)
