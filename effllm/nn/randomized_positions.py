"""Randomized positions."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from effllm.nn.resample import Resample, numbered


@dataclass(frozen=True)
class RandomizedPositions(Resample):
    """A document of n tokens gets n different positions of 0 … longest − 1, uniformly at random and sorted (Ruoss et al. 2023, arXiv 2305.16843).

    So every distance below `longest` is met in training on short texts. Raises ValueError for rows longer than `longest`.
    """

    longest: int = 2048

    def __call__(self, key, positions_bt, segment_ids):
        rows, length = positions_bt.shape
        if length > self.longest:
            raise ValueError(f"RandomizedPositions: longest={self.longest} positions do not suffice for rows of {length} tokens; raise longest")
        # A row draws without replacement; the part that falls to each document is uniform too, and is sorted within it.
        drawn_bt = jax.lax.top_k(jax.random.uniform(key, (rows, self.longest)), length)[1].astype(jnp.int32)
        number_bt = numbered(positions_bt, segment_ids).number_bt
        order_bt = jnp.argsort(number_bt, axis=1, stable=True)  # documents one after another, padding behind them
        _, sorted_bt = jax.lax.sort((jnp.take_along_axis(number_bt, order_bt, axis=1), drawn_bt), dimension=1, num_keys=2)
        return jnp.take_along_axis(sorted_bt, jnp.argsort(order_bt, axis=1), axis=1)
