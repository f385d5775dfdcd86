"""Busbridge et al. 2025, "Distillation Scaling Laws" (arXiv 2502.08606)."""

from dataclasses import dataclass

from effllm.scaling.law import Law
from effllm.scaling.numeric import power


@dataclass(frozen=True)
class Distillation(Law):
    """L_S(N, D, L_T) = L_T + L_T^−c0 (1 + (L_T/(L̃_S d1))^(1/f1))^(−c1 f1) (A/N^α + B/D^β)^γ.

    N, D: the student's parameters and distillation tokens; L_T the teacher's loss; L̃_S the loss of the same student trained without a teacher.
    The bracket's break is the capacity gap: a teacher much better than the student can become makes it worse.
    """

    c0: float
    c1: float
    d1: float
    f1: float
    A: float
    B: float
    alpha: float
    beta: float
    gamma: float

    inputs = ("params", "tokens", "teacher_loss", "supervised_loss")
    positive = ("c1", "d1", "f1", "A", "B", "alpha", "beta", "gamma")
    starts = {
        "c0": (0.5, 2.0), "c1": (1.0, 5.0), "d1": (0.8, 1.3), "f1": (0.1, 0.4), "A": (1e2, 1e4), "B": (1e2, 1e4), "alpha": (0.35,), "beta": (0.35,), "gamma": (0.8,),
    }  # fmt: skip

    def __call__(self, params, tokens, teacher_loss, supervised_loss):
        gap = power(teacher_loss / (supervised_loss * self.d1), 1 / self.f1)
        own = power(self.A * power(params, -self.alpha) + self.B * power(tokens, -self.beta), self.gamma)
        return teacher_loss + power(teacher_loss, -self.c0) * power(1 + gap, -self.c1 * self.f1) * own
