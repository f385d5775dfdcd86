"""Kaplan et al. 2020 (arXiv 2001.08361)."""

from dataclasses import dataclass

from effllm.scaling.law import Law
from effllm.scaling.numeric import power


@dataclass(frozen=True)
class Kaplan(Law):
    """L(N, D) = ((N_c/N)^(α_N/α_D) + D_c/D)^α_D in nats a token, N without embeddings.

    There is no irreducible loss: it tends to zero. Defaults are the paper's, for a vocabulary of 50,257.
    """

    N_c: float = 6.4e13
    D_c: float = 1.8e13
    alpha_N: float = 0.076
    alpha_D: float = 0.103

    positive = ("N_c", "D_c", "alpha_N", "alpha_D")
    starts = {"N_c": (1e10, 1e13, 1e16), "D_c": (1e10, 1e13, 1e16), "alpha_N": (0.05, 0.1, 0.25), "alpha_D": (0.05, 0.1, 0.25)}

    def __call__(self, params, tokens):
        return power(power(self.N_c / params, self.alpha_N / self.alpha_D) + self.D_c / tokens, self.alpha_D)
