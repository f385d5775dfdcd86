"""Shaw's relative positions."""

from typing import ClassVar

from flax import linen as nn

from effllm import ops
from effllm.nn.init import Initializer, Normal
from effllm.nn.linear import parameter
from effllm.nn.position import Position


class Shaw(Position):
    """Scores q·(k + a_{clip(j − i)})/√K: a learned key for each distance up to `clip` either way, shared by all heads (Shaw et al. 2018, arXiv 1803.02155).

    (2·clip + 1)·K numbers a layer; distances beyond clip look alike. The paper's relative values, Σ_j p_ij·a^V, are left out: attention
    never holds p, and the paper's own ablation found that keys alone do as well. Raises ValueError for a clip below 1.
    """

    clip: int = 16
    table_init: Initializer = Normal(0.02)
    of_queries: ClassVar[bool] = True

    @nn.compact
    def bias(self, heads, head_dim):
        if self.clip < 1:
            raise ValueError(f"Shaw: clip={self.clip} must be at least 1, the farthest distance with a key of its own")
        table_nk = parameter(self, "table", self.table_init, (2 * self.clip + 1, head_dim), (None, None))
        return ops.Bias(table_nk, ops.RelativeKeyBias(self.clip, head_dim**-0.5))
