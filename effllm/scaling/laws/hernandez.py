"""Hernandez et al. 2021, "Scaling Laws for Transfer" (arXiv 2102.01293)."""

from dataclasses import dataclass

from effllm.scaling.law import Law
from effllm.scaling.numeric import power


@dataclass(frozen=True)
class Transfer(Law):
    """D_T(D_F, N) = k D_F^α N^β: tokens of the target task that pre-training is worth to a model of N parameters fine-tuned on D_F tokens.

    Defaults are the paper's for text to Python.
    """

    k: float = 1.9e4
    alpha: float = 0.18
    beta: float = 0.38

    inputs = ("fine_tuning_tokens", "params")
    target = "transferred_tokens"
    positive = ("k",)
    linear = ("k",)
    starts = {"alpha": (0.1, 0.2, 0.4), "beta": (0.2, 0.4, 0.6)}

    def __call__(self, fine_tuning_tokens, params):
        return self.k * power(fine_tuning_tokens, self.alpha) * power(params, self.beta)

    def multiplier(self, fine_tuning_tokens, params):
        """(D_F + D_T)/D_F: by how much pre-training multiplies the data."""
        return 1 + self(fine_tuning_tokens, params) / fine_tuning_tokens
