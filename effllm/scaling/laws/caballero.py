"""Caballero et al. 2022, "Broken Neural Scaling Laws" (arXiv 2210.14891)."""

from dataclasses import dataclass

from effllm.scaling.law import Law
from effllm.scaling.numeric import power


def smooth_break(x, place, change, sharpness):
    """(1 + (x/d)^(1/f))^(−c·f): 1 below the break, slope −c in log-log above it; small f is sharp."""
    return power(1 + power(x / place, 1 / sharpness), -change * sharpness)


@dataclass(frozen=True)
class Broken(Law):
    """y(x) = a + b x^−c0 (1 + (x/d1)^(1/f1))^(−c1 f1): a power law whose slope changes from −c0 to −(c0 + c1) around x = d1."""

    a: float
    b: float
    c0: float
    c1: float
    d1: float
    f1: float

    inputs = ("x",)
    positive = ("a", "b", "d1", "f1")
    linear = ("a", "b")
    starts = {"c0": (0.0, 0.2, 0.6), "c1": (-0.3, 0.2, 0.8), "d1": tuple(10.0**k for k in range(0, 25, 3)), "f1": (0.1, 0.5)}

    def __call__(self, x):
        return self.a + self.b * power(x, -self.c0) * smooth_break(x, self.d1, self.c1, self.f1)


@dataclass(frozen=True)
class TwiceBroken(Law):
    """y(x) = a + b x^−c0 Π_i (1 + (x/d_i)^(1/f_i))^(−c_i f_i) with two breaks; which is called the first is arbitrary."""

    a: float
    b: float
    c0: float
    c1: float
    d1: float
    f1: float
    c2: float
    d2: float
    f2: float

    inputs = ("x",)
    positive = ("a", "b", "d1", "f1", "d2", "f2")
    linear = ("a", "b")
    starts = {
        "c0": (0.0, 0.4), "c1": (-0.3, 0.5), "d1": tuple(10.0**k for k in range(0, 22, 5)), "f1": (0.3,),
        "c2": (-0.3, 0.5), "d2": tuple(10.0**k for k in range(3, 25, 5)), "f2": (0.3,),
    }  # fmt: skip

    def __call__(self, x):
        return self.a + self.b * power(x, -self.c0) * smooth_break(x, self.d1, self.c1, self.f1) * smooth_break(x, self.d2, self.c2, self.f2)
