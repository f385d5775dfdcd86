"""Kernelized relative positions with learned shapes."""

import jax
from flax import linen as nn

from effllm import ops
from effllm.nn.init import Normal
from effllm.nn.linear import parameter
from effllm.nn.position import Position


class KERPLELog(Position):
    """b = −r1·ln(1 + r2·|i − j|), r1 and r2 learned for each head (Chi et al. 2022, arXiv 2205.09921).

    exp(b) is a power of the distance: far tokens fade slowly. r1, r2 = softplus of parameters from N(0, 1), so that they stay positive.
    """

    @nn.compact
    def bias(self, heads, head_dim):
        return ops.Bias(tuple(jax.nn.softplus(parameter(self, name, Normal(1.0), (heads,), (None,))) for name in ("r1", "r2")), ops.kerple_log_bias)


class KERPLEPower(Position):
    """b = −r1·|i − j|^r2, r1 > 0 and 0 < r2 ≤ 2 learned for each head (Chi et al. 2022, arXiv 2205.09921); r2 = 1 is ALiBi with learned slopes.

    r1 = softplus and r2 = 2·sigmoid of parameters from N(0, 1), so that the kernel stays conditionally positive definite.
    """

    @nn.compact
    def bias(self, heads, head_dim):
        r1, r2 = (parameter(self, name, Normal(1.0), (heads,), (None,)) for name in ("r1", "r2"))
        return ops.Bias((jax.nn.softplus(r1), 2 * jax.nn.sigmoid(r2)), ops.kerple_power_bias)
