"""Sorscher et al. 2022, "Beyond neural scaling laws: beating power law scaling via data pruning" (arXiv 2206.14486)."""

from dataclasses import dataclass

from effllm.scaling.law import Law
from effllm.scaling.numeric import exp, power


@dataclass(frozen=True)
class Pruned(Law):
    """ε(x) = E + A x^−ν e^(−x/x_0) of x examples kept: a power law for x ≪ x_0, as random selection gives, and an exponential beyond, which the paper
    shows selection by a good metric to reach. x_0 → ∞ is the power law, so the two regimes are nested and can be tested against each other.

    The paper derives the two limits for a perceptron; this interpolation between them is ours.
    """

    E: float
    A: float
    nu: float
    x_0: float

    inputs = ("x",)
    positive = ("E", "A", "x_0")
    linear = ("E", "A")
    starts = {"nu": (0.0, 0.1, 0.3, 0.6, 1.0), "x_0": tuple(10.0**k for k in range(0, 13, 2))}

    def __call__(self, x):
        return self.E + self.A * power(x, -self.nu) * exp(-x / self.x_0)
