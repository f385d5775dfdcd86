"""Functional interpolation of relative positions."""

from flax import linen as nn

from effllm import ops
from effllm.nn.init import FanIn, Fill
from effllm.nn.linear import parameter
from effllm.nn.position import Position


class FIRE(Position):
    """b = f(ψ(i − j) / ψ(max(i, L))), f a small learned network and ψ(x) = ln(1 + cx) (Li et al. 2023, arXiv 2310.04418).

    c and L are learned for each layer from `c` and `threshold`; f has `hidden` units and one output a head. At any length the
    argument lies in [0, 1], so that a longer text is interpolated, never extrapolated. Raises ValueError for fields that are not positive.
    """

    hidden: int = 32
    c: float = 0.1
    threshold: float = 512.0

    @nn.compact
    def bias(self, heads, head_dim):
        if min(self.hidden, self.c, self.threshold) <= 0:
            raise ValueError(f"FIRE: hidden={self.hidden}, c={self.c} and threshold={self.threshold} must be positive")
        params = {
            "c": parameter(self, "c", Fill(self.c), (), ()),
            "L": self.threshold * parameter(self, "threshold_ratio", Fill(1.0), (), ()),
            "w1": parameter(self, "w1", FanIn(), (1, self.hidden), (None, None))[0],
            "b1": parameter(self, "b1", Fill(0.0), (self.hidden,), (None,)),
            "w2": parameter(self, "w2", FanIn(), (self.hidden, heads), (None, None)),
            "b2": parameter(self, "b2", Fill(0.0), (heads,), (None,)),
        }
        return ops.Bias(params, ops.fire_bias)
