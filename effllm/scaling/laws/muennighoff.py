"""Muennighoff et al. 2023, "Scaling Data-Constrained Language Models" (arXiv 2305.16264)."""

from dataclasses import dataclass

from effllm.scaling.law import Law
from effllm.scaling.laws.hoffmann import Chinchilla
from effllm.scaling.numeric import expm1, minimum, power


@dataclass(frozen=True)
class DataConstrained(Law):
    """L(N, D, U) = E + A/N′^α + B/D′^β: tokens seen again, and parameters beyond what the unique tokens feed, are worth less and less.

    U_D = min(U, D), R_D = D/U_D − 1 repetitions, D′ = U_D (1 + R_D* (1 − e^(−R_D/R_D*)));  U_N = min(N, N_opt(U_D)), R_N = N/U_N − 1, N′ likewise.
    N_opt(U_D) is the size for which U_D tokens are compute-optimal. R_D → ∞ and R_N → ∞ give Chinchilla.

    Defaults are the paper's C4 fit (α = β). Its R_D*, R_N* are one of several minima along a flat valley: profile them before use.
    """

    E: float = 1.869143
    A: float = 520.8223
    B: float = 1487.7180
    alpha: float = 0.3526596
    beta: float = 0.3526596
    R_D: float = 15.387756
    R_N: float = 5.309743

    inputs = ("params", "tokens", "unique_tokens")
    positive = ("E", "A", "B", "alpha", "beta", "R_D", "R_N")
    starts = {
        "E": (1.8,), "A": (500.0,), "B": (1500.0,), "alpha": (0.3, 0.4), "beta": (0.3, 0.4),
        "R_D": (2.0, 6.0, 15.0, 50.0, 200.0), "R_N": (0.5, 2.0, 6.0, 20.0, 100.0),
    }  # fmt: skip

    def __call__(self, params, tokens, unique_tokens):
        unique = minimum(unique_tokens, tokens)
        fed = minimum(self.optimal_params(unique), params)
        worth_d = unique * (1 - self.R_D * expm1(-(tokens / unique - 1) / self.R_D))
        worth_n = fed * (1 - self.R_N * expm1(-(params / fed - 1) / self.R_N))
        return self.E + self.A * power(worth_n, -self.alpha) + self.B * power(worth_d, -self.beta)

    @classmethod
    def extend(cls, law: Chinchilla, R_D: float = 15.387756, R_N: float = 5.309743) -> "DataConstrained":
        """A Chinchilla law, which knows new tokens only, with decay constants from elsewhere (by default the paper's)."""
        return cls(law.E, law.A, law.B, law.alpha, law.beta, R_D, R_N)

    def optimal_params(self, tokens):
        """N for which `tokens` are compute-optimal under C = 6ND: G (G·D)^(β/α) with G = (αA/βB)^(1/(α+β))."""
        g = power(self.alpha * self.A / (self.beta * self.B), 1 / (self.alpha + self.beta))
        return g * power(g * tokens, self.beta / self.alpha)
