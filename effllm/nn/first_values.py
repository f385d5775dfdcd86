"""Mixers that blend their values with those of the model's first layer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from effllm.nn.mixer import Mixer
from effllm.shard import shard


class FirstValues(NamedTuple):
    """The values (B, T, H, V) of the first layer that has some, and whether there was one yet, a bool."""

    v_bthv: jax.Array
    known: jax.Array

    @classmethod
    def none(cls, shape: tuple[int, ...], dtype: Any) -> "FirstValues":
        return cls(shard(jnp.zeros(shape, dtype), "batch", "length", "heads", None), jnp.array(False))

    def or_else(self, v_bthv: jax.Array) -> "FirstValues":
        """These, where there are some, else v."""
        return FirstValues(jnp.where(self.known, self.v_bthv, v_bthv), jnp.array(True))


class ValueMixer(Mixer):
    """Base of mixers that may stand in a ValueResidualBlock; called without one they use their own values alone."""

    def first_values(self, x_btd: jax.Array) -> FirstValues:
        """What the first layer is given: no values, in the shape that this mixer's have."""
        raise TypeError(f"{type(self).__name__} does not say what its values are: it needs first_values")

    def with_values(
        self, x_btd: jax.Array, first: FirstValues | None, *, positions: jax.Array, segment_ids: jax.Array | None, state: Any = None
    ) -> tuple[jax.Array, Any, FirstValues | None]:
        """(y, state, first values after this layer), see Mixer; `first` None blends nothing."""
        raise TypeError(f"{type(self).__name__} does not say how it blends values: it needs with_values")

    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        return self.with_values(x_btd, None, positions=positions, segment_ids=segment_ids, state=state)[:2]
