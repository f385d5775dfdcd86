"""A learned number for each bucket of distances and each head (Raffel et al. 2019, arXiv 1910.10683)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from effllm.ops.buckets import t5_buckets
from effllm.ops.distance import behind


@dataclass(frozen=True)
class BucketBias:
    """b(h, i, j) = table[bucket(j − i), h] with params = table (buckets, H); `t5_buckets` says which bucket."""

    buckets: int
    max_distance: int
    bidirectional: bool

    def __call__(self, table_nh, q_bthk, k_bsgk, i_bt, j_bs):
        ahead_bts = jnp.clip(-behind(i_bt, j_bs), -self.max_distance, self.max_distance)
        bucket_bts = jnp.take(t5_buckets(self.buckets, self.max_distance, self.bidirectional), ahead_bts + self.max_distance)
        # As a product: the gradient of a gather would scatter.
        one_btsn = jax.nn.one_hot(bucket_bts, self.buckets, dtype=jnp.float32)
        return jnp.einsum("btsn,nh->bhts", one_btsn, table_nh.astype(jnp.float32), precision="highest")
