"""Gadre et al. 2024, "Language models scale reliably with over-training and on downstream tasks" (arXiv 2403.08540)."""

from dataclasses import dataclass

from effllm.scaling.law import Law
from effllm.scaling.numeric import exp, power


@dataclass(frozen=True)
class OverTraining(Law):
    """L(C, M) = E + (a M^η + b M^−η) C^−η with C = 6ND and M = D/N tokens a parameter: over-training moves a, not the slope η.

    The same as E + A/N^2η + B/D^2η: Chinchilla with equal exponents, which four or five small runs determine.
    """

    E: float
    a: float
    b: float
    eta: float

    positive = ("E", "a", "b", "eta")
    linear = ("E", "a", "b")
    starts = {"eta": (0.03, 0.06, 0.09, 0.12, 0.15, 0.18, 0.21, 0.25, 0.3, 0.4)}

    def __call__(self, params, tokens):
        per_param, compute = tokens / params, 6.0 * params * tokens
        return self.E + (self.a * power(per_param, self.eta) + self.b * power(per_param, -self.eta)) * power(compute, -self.eta)


@dataclass(frozen=True)
class Downstream(Law):
    """Err(L) = ε − k e^(−γL): the average error on downstream tasks as a function of loss; ε is chance."""

    epsilon: float
    k: float
    gamma: float

    inputs = ("loss",)
    target = "error"
    positive = ("epsilon", "k", "gamma")
    linear = ("epsilon", "k")
    starts = {"gamma": (0.1, 0.3, 0.5, 0.8, 1.2, 1.8, 2.5, 4.0)}

    def __call__(self, loss):
        return self.epsilon - self.k * exp(-self.gamma * loss)
