"""Attention of clusters of queries."""

from typing import ClassVar

from flax import linen as nn

from effllm import ops
from effllm.nn.heads import head_dim, merge_heads, nan_where, split_heads
from effllm.nn.mixer import Mixer


class ClusteredAttention(Mixer):
    """Queries in one cluster get the attention of their mean (Vyas et al. 2020, arXiv 2007.04825). Sees both sides.

    Each head clusters each document's queries by `iterations` steps of k-means from evenly spaced ones of them (the paper clusters hashes of them); which cluster
    a query is in has no gradient, its mean has. A row holds at most `documents` documents; later ones give NaN. O(T·clusters·D) time without packing,
    O(T·clusters) memory. As many clusters as tokens is full attention.
    """

    heads: int = 4
    clusters: int = 16
    iterations: int = 4
    documents: int = 8
    causal: ClassVar[bool] = False
    variants: ClassVar = ({"clusters": 3},)

    def flops(self, length, width):
        return 4.0 * self.clusters * width + 2.0 * (self.iterations + 1) * self.clusters * width

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        dim = head_dim(self, x_btd.shape[-1])
        if min(self.clusters, self.iterations) < 1:
            raise ValueError(f"ClusteredAttention: clusters={self.clusters} and iterations={self.iterations} must be at least 1")
        q_bthk, k_bthk, v_bthk = (split_heads(x_btd, self.heads, dim, name) for name in ("q", "k", "v"))
        found = ops.documents(segment_ids, x_btd.shape[:2], self.documents)
        o_bthk = ops.clustered_attention(q_bthk, k_bthk, v_bthk, found, clusters=self.clusters, iterations=self.iterations)
        return nan_where(found.lost_bt, merge_heads(o_bthk, x_btd.shape[-1])), None
