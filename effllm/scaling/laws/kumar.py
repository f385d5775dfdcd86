"""Kumar et al. 2024, "Scaling Laws for Precision" (arXiv 2411.04330)."""

from dataclasses import dataclass

from effllm.scaling.law import Law
from effllm.scaling.numeric import exp, power


@dataclass(frozen=True)
class Precision(Law):
    """L(N, D, P) = E + A/N_eff^α + B/D^β, N_eff = N (1 − e^(−P/γ)): weights trained in P bits count as fewer."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    gamma: float

    inputs = ("params", "tokens", "bits")
    positive = ("E", "A", "B", "gamma")
    linear = ("E", "A", "B")
    starts = {"alpha": (0.2, 0.35, 0.5), "beta": (0.2, 0.35, 0.5), "gamma": (0.5, 1.5, 3.0, 6.0)}

    def __call__(self, params, tokens, bits):
        effective = params * (1 - exp(-bits / self.gamma))
        return self.E + self.A * power(effective, -self.alpha) + self.B * power(tokens, -self.beta)


@dataclass(frozen=True)
class PrecisionOfEach(Law):
    """The same with N_eff = N Π_x (1 − e^(−P_x/γ_x)) over weights, activations and the KV cache."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    gamma_w: float
    gamma_a: float
    gamma_kv: float

    inputs = ("params", "tokens", "bits_w", "bits_a", "bits_kv")
    positive = ("E", "A", "B", "gamma_w", "gamma_a", "gamma_kv")
    linear = ("E", "A", "B")
    starts = {"alpha": (0.25, 0.45), "beta": (0.25, 0.45), "gamma_w": (1.0, 3.0), "gamma_a": (1.0, 3.0), "gamma_kv": (1.0, 3.0)}

    def __call__(self, params, tokens, bits_w, bits_a, bits_kv):
        kept = (1 - exp(-bits_w / self.gamma_w)) * (1 - exp(-bits_a / self.gamma_a)) * (1 - exp(-bits_kv / self.gamma_kv))
        return self.E + self.A * power(params * kept, -self.alpha) + self.B * power(tokens, -self.beta)


@dataclass(frozen=True)
class PostTraining(Law):
    """δ(N, D, P) = C_T D^γ_D / N^γ_N e^(−P/γ): loss that quantisation after training adds; it grows with the tokens trained on."""

    C_T: float
    gamma_D: float
    gamma_N: float
    gamma: float

    inputs = ("params", "tokens", "bits")
    target = "degradation"
    positive = ("C_T", "gamma")
    linear = ("C_T",)
    starts = {"gamma_D": (0.2, 0.5, 1.0), "gamma_N": (0.2, 0.5, 1.0), "gamma": (0.3, 0.6, 1.2)}

    def __call__(self, params, tokens, bits):
        return self.C_T * power(tokens, self.gamma_D) * power(params, -self.gamma_N) * exp(-bits / self.gamma)
