"""DeBERTa's disentangled attention."""

import math
from typing import ClassVar

from flax import linen as nn

from effllm import ops
from effllm.nn.init import Initializer, Normal
from effllm.nn.linear import parameter
from effllm.nn.position import Position


class Disentangled(Position):
    """(q·k + q·kr[δ(i − j)] + k·qr[δ(i − j)]) / √(3K): content, content to position, position to content (He et al. 2020, arXiv 2006.03654).

    kr and qr (2·buckets, H, K) are learned tables, the products of the paper's position embeddings with its projections (which share the
    embeddings among layers). δ is logarithmic beyond buckets/2 (ops.deberta_buckets). The paper writes δ(j − i) in the last term; this is the
    released code's δ(i − j). √(3K) for three terms: queries are divided by √3 before attention's own 1/√K. max_distance=None has a bucket for each
    distance below `buckets`. Raises ValueError for too few buckets.
    """

    buckets: int = 32
    max_distance: int | None = 128
    table_init: Initializer = Normal(0.02)
    of_queries: ClassVar[bool] = True

    def rotate(self, q_bthk, k_btgk, positions_bt):
        return q_bthk / math.sqrt(3), k_btgk

    @nn.compact
    def bias(self, heads, head_dim):
        tables = tuple(parameter(self, name, self.table_init, (2 * self.buckets, heads, head_dim), (None, None, None)) for name in ("keys", "queries"))
        return ops.Bias(tables, ops.DisentangledBias(self.buckets, self.max_distance, head_dim**-0.5, (3 * head_dim) ** -0.5))
