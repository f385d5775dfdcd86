"""Positional skip-wise training."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from effllm.nn.resample import Resample, numbered


@dataclass(frozen=True)
class PoSE(Resample):
    """A row is cut at random into `chunks`, and each chunk's positions skip ahead by a random number, ascending (Zhu et al. 2023, arXiv 2309.10400).

    With rows of T tokens the skips u_0 = 0 ≤ u_1 ≤ … are drawn from 0 … longest − T, as the paper draws each from u_{i−1} on. Every document
    starts where it did. Raises ValueError for rows longer than `longest` and for fewer than two chunks.
    """

    longest: int = 2048
    chunks: int = 2

    def __call__(self, key, positions_bt, segment_ids):
        rows, length = positions_bt.shape
        if length > self.longest or self.chunks < 2:
            raise ValueError(f"PoSE: longest={self.longest} must reach the row's {length} tokens and chunks={self.chunks} must be at least 2")
        cut_key, skip_key = jax.random.split(key)
        cuts_bc = jax.random.randint(cut_key, (rows, self.chunks - 1), 1, max(length, 2))
        chunk_bt = jnp.sum(jnp.arange(length)[:, None] >= cuts_bc[:, None], axis=-1)

        def further(skip_b, key):
            skip_b = jax.random.randint(key, (rows,), skip_b, self.longest - length + 1)
            return skip_b, skip_b

        _, skips_cb = jax.lax.scan(further, jnp.zeros((rows,), jnp.int32), jax.random.split(skip_key, self.chunks - 1))
        skips_bc = jnp.concatenate([jnp.zeros((rows, 1), jnp.int32), skips_cb.T], axis=1)
        skip_bt = jnp.take_along_axis(skips_bc, chunk_bt, axis=1)
        first_bt = jax.lax.cummax(jnp.where(numbered(positions_bt, segment_ids).begins_bt, jnp.arange(length), 0), axis=1)
        return positions_bt + skip_bt - jnp.take_along_axis(skip_bt, first_bt, axis=1)
