"""Clark et al. 2022, "Unified Scaling Laws for Routed Language Models" (arXiv 2202.01169)."""

from dataclasses import dataclass

from effllm.scaling.law import Law
from effllm.scaling.numeric import log, power

LN10 = 2.302585092994046


@dataclass(frozen=True)
class Routed(Law):
    """log₁₀ L(N, E) = a log₁₀ N + b log₁₀ Ê + c log₁₀ N log₁₀ Ê + d, N the dense parameters that a token meets, E the experts.

    1/Ê = 1/(E − 1 + (1/E_start − 1/E_max)⁻¹) + 1/E_max: few and many experts saturate. c > 0: experts help large models less.
    A dense model has E = 1.
    """

    a: float
    b: float
    c: float
    d: float
    E_start: float
    E_max: float

    inputs = ("params", "experts")
    positive = ("E_start", "E_max")
    starts = {"a": (-0.08,), "b": (-0.12,), "c": (0.01,), "d": (1.1,), "E_start": (1.2, 2.0, 4.0), "E_max": (50.0, 300.0, 2000.0)}

    def saturated(self, experts):
        """Ê."""
        return 1 / (1 / (experts - 1 + 1 / (1 / self.E_start - 1 / self.E_max)) + 1 / self.E_max)

    def __call__(self, params, experts):
        n, e = log(params) / LN10, log(self.saturated(experts)) / LN10
        return power(10.0, self.a * n + self.b * e + self.c * n * e + self.d)

    def effective_params(self, params, experts):
        """N̄: the dense model of the same loss, log₁₀ N̄ = ((a + c ê) n + b ê − b e₁)/(a + c e₁) with e₁ of one expert."""
        n, e, one = log(params) / LN10, log(self.saturated(experts)) / LN10, log(self.E_start) / LN10
        return power(10.0, ((self.a + self.c * e) * n + self.b * (e - one)) / (self.a + self.c * one))
