"""Learning rate and batch size as functions of scale."""

from dataclasses import dataclass

from effllm.scaling.law import Law
from effllm.scaling.numeric import power


@dataclass(frozen=True)
class LearningRate(Law):
    """η(N, D) = k N^a D^b, the peak learning rate of AdamW. Defaults: Li et al. 2025, "Step Law" (arXiv 2503.04715)."""

    k: float = 1.79
    a: float = -0.713
    b: float = 0.307

    target = "learning_rate"
    positive = ("k",)
    linear = ("k",)
    starts = {"a": (-0.7, -0.3, 0.0), "b": (-0.3, 0.0, 0.3)}

    def __call__(self, params, tokens):
        return self.k * power(params, self.a) * power(tokens, self.b)


@dataclass(frozen=True)
class BatchSize(Law):
    """B(D) = k D^b tokens a step. Defaults: Li et al. 2025 (arXiv 2503.04715)."""

    k: float = 0.58
    b: float = 0.571

    inputs = ("tokens",)
    target = "batch_tokens"
    positive = ("k",)
    linear = ("k",)
    starts = {"b": (0.2, 0.4, 0.6)}

    def __call__(self, tokens):
        return self.k * power(tokens, self.b)


@dataclass(frozen=True)
class OfCompute(Law):
    """y(C) = k C^b of a learning rate or of a batch in tokens. DeepSeek LLM (arXiv 2401.02954) gives η = 0.3118 C^−0.1250 and B = 0.2920 C^0.3271."""

    k: float = 0.3118
    b: float = -0.1250

    inputs = ("flops",)
    target = "learning_rate"
    positive = ("k",)
    linear = ("k",)
    starts = {"b": (-0.3, -0.1, 0.1, 0.3)}

    def __call__(self, flops):
        return self.k * power(flops, self.b)


@dataclass(frozen=True)
class CriticalBatch(Law):
    """B_crit(L) = B_*/L^(1/α_B) tokens: below it more data parallelism is nearly free, above it wasted (McCandlish et al. 2018, arXiv 1812.06162).

    Defaults: Kaplan et al. 2020 (arXiv 2001.08361).
    """

    B_star: float = 2e8
    alpha_B: float = 0.21

    inputs = ("loss",)
    target = "batch_tokens"
    positive = ("B_star", "alpha_B")
    linear = ("B_star",)
    starts = {"alpha_B": (0.1, 0.2, 0.4)}

    def __call__(self, loss):
        return self.B_star * power(loss, -1 / self.alpha_B)

    def steps(self, least, batch_tokens, loss):
        """Steps at a batch of `batch_tokens` to reach `loss`, where an endless batch needs `least`: S_min (1 + B_crit/B)."""
        return least * (1 + self(loss) / batch_tokens)

    def tokens(self, least, batch_tokens, loss):
        """Tokens at that batch, where tiny batches need `least`: E_min (1 + B/B_crit)."""
        return least * (1 + batch_tokens / self(loss))
