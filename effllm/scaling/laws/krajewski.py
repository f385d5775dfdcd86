"""Krajewski et al. 2024, "Scaling Laws for Fine-Grained Mixture of Experts" (arXiv 2402.07871)."""

from dataclasses import dataclass

from effllm.scaling.conventions import FineGrainedExperts
from effllm.scaling.law import Law
from effllm.scaling.numeric import power


@dataclass(frozen=True)
class FineGrained(Law):
    """L(N, D, G) = c + (g/G^γ + a)/N^α + b/D^β, N all parameters but embeddings, every expert's counted, G granularity: into how many small
    experts a feed-forward layer's worth is cut.

    Defaults are the paper's, for an expansion of 64, at which a token meets N/43 parameters: hence its own cost, not 6·N.
    """

    c: float = 0.47
    g: float = 2.1
    gamma: float = 0.58
    a: float = 18.1
    alpha: float = 0.115
    b: float = 30.8
    beta: float = 0.147

    inputs = ("params", "tokens", "granularity")
    cost = FineGrainedExperts()
    positive = ("c", "g", "gamma", "a", "b")
    linear = ("c", "g", "a", "b")
    starts = {"gamma": (0.3, 0.6, 1.0), "alpha": (0.08, 0.12, 0.2, 0.35), "beta": (0.08, 0.15, 0.25, 0.35)}

    def __call__(self, params, tokens, granularity):
        return self.c + (self.g * power(granularity, -self.gamma) + self.a) * power(params, -self.alpha) + self.b * power(tokens, -self.beta)
