"""Positions drawn anew in training, so that those of longer texts are met."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from effllm.nn.recurrent import documents


@dataclass(frozen=True)
class Resample:
    """Base: `resample(key, positions_bt, segment_ids) -> positions_bt` int32, ascending within a document as before.

    A model applies it to its positions where a "dropout" key is given, as dropout acts; without one positions stay as they are.
    """

    def __call__(self, key: jax.Array, positions_bt: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
        raise TypeError(f"{type(self).__name__} does not say how it resamples: it needs a __call__")


class Numbered(NamedTuple):
    """(B, T) each: which tokens begin a document of their row, and the number of each one's document from 0; padding has number T − 1, which is then free."""

    begins_bt: jax.Array
    number_bt: jax.Array


def numbered(positions_bt: jax.Array, segment_ids: jax.Array | None) -> Numbered:
    """The documents of a batch with these positions and segments."""
    length = positions_bt.shape[1]
    if segment_ids is None:
        return Numbered(jnp.broadcast_to(jnp.arange(length) == 0, positions_bt.shape), jnp.zeros(positions_bt.shape, jnp.int32))
    found = documents(segment_ids, None)
    begins_bt = found.reset_bt | (found.real_bt & (jnp.cumsum(found.real_bt, axis=1) == 1))
    number_bt = jnp.cumsum(begins_bt, axis=1, dtype=jnp.int32) - 1
    return Numbered(begins_bt, jnp.where(found.real_bt, number_bt, length - 1))
