"""Positions in the input: encodings that act once, on the token embeddings before the first block."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm.nn.init import Initializer, Normal
from effllm.nn.linear import parameter
from effllm.shard import shard


class InputPosition(nn.Module):
    """Base: position(x_btd, *, tokens_bt, positions_bt, segment_ids) -> x_btd, of embeddings x, in x's dtype.

    `limit` is how many positions it knows, None for all; a model refuses longer texts.
    """

    @property
    def limit(self) -> int | None:
        return None

    def __call__(self, x_btd: jax.Array, *, tokens_bt: jax.Array, positions_bt: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
        raise TypeError(f"{type(self).__name__} does not say how it encodes: it needs a __call__")


class Learned(InputPosition):
    """x + P[position], a vector learned for each of `length` positions (Gehring et al. 2017, arXiv 1705.03122; GPT-2).

    `offset` rows of the table come before that of position 0 (OPT has two of them). A position beyond the table gives NaN.
    """

    length: int = 1024
    offset: int = 0
    table_init: Initializer = Normal(0.02)

    @property
    def limit(self):
        return self.length

    @nn.compact
    def __call__(self, x_btd, *, tokens_bt, positions_bt, segment_ids):
        if self.length < 1 or self.offset < 0:
            raise ValueError(f"Learned: length={self.length} must be at least 1 and offset={self.offset} not negative")
        table_pd = parameter(self, "embedding", self.table_init, (self.offset + self.length, x_btd.shape[-1]), (None, "width"))
        table_pd = shard(table_pd.astype(x_btd.dtype), None, None)
        return x_btd + jnp.take(table_pd, positions_bt + self.offset, axis=0)


class Sinusoidal(InputPosition):
    """x + P with P[2i] = sin(position · base^(−2i/D)), P[2i+1] = cos of the same (Vaswani et al. 2017, arXiv 1706.03762, §3.5).

    Angles in float32. Raises ValueError for an odd width.
    """

    base: float = 10000.0

    def __call__(self, x_btd, *, tokens_bt, positions_bt, segment_ids):
        width = x_btd.shape[-1]
        if width % 2:
            raise ValueError(f"Sinusoidal pairs channels: width={width} is odd")
        frequencies_f = self.base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
        angle_btf = positions_bt[..., None].astype(jnp.float32) * frequencies_f
        pairs_btf2 = jnp.stack([jnp.sin(angle_btf), jnp.cos(angle_btf)], axis=-1)
        return x_btd + pairs_btf2.reshape(x_btd.shape).astype(x_btd.dtype)
