"""Power laws of one quantity x (parameters, tokens, FLOPs, ...): Hestness et al. 2017 (arXiv 1712.00409), Henighan et al. 2020 (arXiv 2010.14701)."""

from dataclasses import dataclass

from effllm.scaling.law import Law
from effllm.scaling.numeric import power

EXPONENTS = (0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5)


@dataclass(frozen=True)
class PowerLaw(Law):
    """y(x) = E + A x^−α."""

    E: float
    A: float
    alpha: float

    inputs = ("x",)
    positive = ("E", "A")
    linear = ("E", "A")
    starts = {"alpha": EXPONENTS}

    def __call__(self, x):
        return self.E + self.A * power(x, -self.alpha)


@dataclass(frozen=True)
class Henighan(Law):
    """L(x) = L_∞ + (x_0/x)^α: the same curve, in which L_∞ estimates the data's entropy and the second term its divergence from the model."""

    L_inf: float
    x_0: float
    alpha: float

    inputs = ("x",)
    positive = ("L_inf", "x_0", "alpha")
    starts = {"L_inf": (0.1, 1.0, 2.0), "x_0": tuple(10.0**k for k in range(0, 25, 4)), "alpha": (0.05, 0.15, 0.4)}

    def __call__(self, x):
        return self.L_inf + power(self.x_0 / x, self.alpha)
