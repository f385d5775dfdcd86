"""Shifted absolute positions."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from effllm.nn.resample import Resample, numbered


@dataclass(frozen=True)
class SHAPE(Resample):
    """All positions of a document move by one random number of 0 … `shift` (Kiyono et al. 2021, arXiv 2109.05644).

    With sinusoidal or learned embeddings a model then learns distances rather than places. Raises ValueError for a negative shift.
    """

    shift: int = 500

    def __call__(self, key, positions_bt, segment_ids):
        if self.shift < 0:
            raise ValueError(f"SHAPE: shift={self.shift} must not be negative")
        shift_bt = jax.random.randint(key, positions_bt.shape, 0, self.shift + 1)
        return positions_bt + jnp.take_along_axis(shift_bt, numbered(positions_bt, segment_ids).number_bt, axis=1)
