"""T5's relative positions."""

from flax import linen as nn

from effllm import ops
from effllm.nn.init import Initializer, Normal
from effllm.nn.linear import parameter
from effllm.nn.position import Position


class T5Bias(Position):
    """A learned bias for each head and each bucket of distances, logarithmic beyond the first half (Raffel et al. 2019, arXiv 1910.10683).

    ops.t5_buckets says where buckets begin. Decoders give all buckets to earlier keys; `bidirectional` gives half of them to later ones, and
    attention that sees both sides takes no other.
    T5 shares one table among its layers and does not scale q kᵀ; here every layer has its own (buckets × heads numbers) and scores are
    scaled as everywhere. Distances beyond max_distance share the last bucket, at any length. Raises ValueError for too few buckets.
    """

    buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = False
    table_init: Initializer = Normal(0.02)

    @property
    def one_sided(self):
        return not self.bidirectional

    @nn.compact
    def bias(self, heads, head_dim):
        table_nh = parameter(self, "table", self.table_init, (self.buckets, heads), (None, None))
        return ops.Bias(table_nh, ops.BucketBias(self.buckets, self.max_distance, self.bidirectional))
