"""Hoffmann et al. 2022, "Chinchilla" (arXiv 2203.15556)."""

import math
from dataclasses import dataclass

from effllm.scaling.law import Law
from effllm.scaling.numeric import power


@dataclass(frozen=True)
class Chinchilla(Law):
    """L(N, D) = E + A/N^α + B/D^β in nats a token: entropy of text, then what a finite model and finite data cost.

    Defaults are Besiroglu et al.'s refit of Hoffmann's runs (arXiv 2404.10102); `Chinchilla.published()` gives Hoffmann's own.
    """

    E: float = 1.8169
    A: float = 482.01
    B: float = 2085.43
    alpha: float = 0.3478
    beta: float = 0.3659

    positive = ("E", "A", "B")
    linear = ("E", "A", "B")
    starts = {"alpha": (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.2), "beta": (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.2)}

    def __call__(self, params, tokens):
        return self.E + self.A * power(params, -self.alpha) + self.B * power(tokens, -self.beta)

    @classmethod
    def published(cls) -> "Chinchilla":
        """Hoffmann et al.'s approach 3, unrounded as released with their paper's source."""
        return cls(E=1.6934, A=406.4, B=410.7, alpha=0.33917084, beta=0.2849083)


# Hoffmann et al.'s 4,500 starts, in natural units: ln E in −1 … 1, ln A and ln B in 0 … 25, α and β in 0 … 2.
GRID = {
    "E": tuple(math.exp(e) for e in (-1.0, -0.5, 0.0, 0.5, 1.0)),
    "A": tuple(math.exp(a) for a in (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)),
    "B": tuple(math.exp(b) for b in (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)),
    "alpha": (0.0, 0.5, 1.0, 1.5, 2.0),
    "beta": (0.0, 0.5, 1.0, 1.5, 2.0),
}
