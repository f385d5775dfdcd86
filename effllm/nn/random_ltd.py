"""Random layerwise token dropping."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm.nn.block import Block
from effllm.nn.scheduled import Scheduled


class RandomLTD(Block):
    """A block that a random share `keep` of the tokens passes through in training; the others go around it (Yao et al. 2022, arXiv 2211.11586).

    y = x, then y[kept] = block(x[kept]) with their positions and segment_ids, in order, so that it stays causal. The same tokens are kept
    for a whole row, other ones in every row and layer. Acts where a "dropout" key is given, as dropout does, and without state; else all
    tokens pass. T·keep is rounded to a `multiple`, at least one and at most T, and decides a shape: with a schedule, keep=Ramp(), a step
    compiles once for each value. The paper keeps the first and the last layer whole. Raises ValueError for a share outside (0, 1], and for a
    schedule that nobody resolved by at_step().
    """

    keep: float | Scheduled = 0.5
    multiple: int = 1

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        fixed = not isinstance(self.keep, Scheduled)
        if self.multiple < 1 or (fixed and not 0 < self.keep <= 1):
            raise ValueError(f"RandomLTD: keep={self.keep}, multiple={self.multiple}: give a share in (0, 1] and a positive number")
        if state is not None or not self.has_rng("dropout"):
            return super().__call__(x_btd, positions=positions, segment_ids=segment_ids, state=state)
        if not fixed:
            raise ValueError(f"RandomLTD: keep={self.keep} is a schedule: take the model at_step(model, step, steps)")
        length = x_btd.shape[1]
        count = min(length, max(1, round(self.keep * length / self.multiple)) * self.multiple)
        if count == length:
            return super().__call__(x_btd, positions=positions, segment_ids=segment_ids, state=state)
        index_bk = kept_tokens(self.make_rng("dropout"), x_btd.shape[0], length, count)
        part_bkd = jnp.take_along_axis(x_btd, index_bk[..., None], axis=1)
        positions, segment_ids = jax.tree.map(lambda a_bt: jnp.take_along_axis(a_bt, index_bk, axis=1), (positions, segment_ids))
        part_bkd, _ = super().__call__(part_bkd, positions=positions, segment_ids=segment_ids)
        return x_btd.at[jnp.arange(x_btd.shape[0])[:, None], index_bk].set(part_bkd), None


def kept_tokens(key: jax.Array, rows: int, length: int, count: int) -> jax.Array:
    """(rows, count) ascending positions, of each row `count` different ones of 0 … length-1, uniformly at random."""
    return jnp.sort(jax.lax.top_k(jax.random.uniform(key, (rows, length)), count)[1], axis=1)
