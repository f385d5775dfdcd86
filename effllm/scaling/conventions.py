"""FLOP and parameter conventions as types, because two papers that count differently disagree about everything downstream.

A `Count` says which parameters N counts; a `Cost` says what training costs per token. Both are frozen dataclasses; effllm.flops counts actual models.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from effllm import flops


class Count:
    """Base of what N may count. `total(n)`: all parameters of a model with n by this count; `of_total` the inverse."""

    def total(self, n: Any) -> Any:
        raise TypeError(f"{type(self).__name__} does not say its total")

    def of_total(self, total: Any) -> Any:
        raise TypeError(f"{type(self).__name__} does not say its inverse")


@dataclass(frozen=True)
class Total(Count):
    """All parameters, embeddings included (Hoffmann et al. 2022)."""

    def total(self, n):
        return n

    def of_total(self, total):
        return total


@dataclass(frozen=True)
class NonEmbedding(Count):
    """Parameters without embeddings (Kaplan et al. 2020). N_T = N + ω N^(1/3) (Pearce & Song 2024, arXiv 2406.12907).

    Embeddings grow with width, and width as the cube root of N at constant aspect; ω = 47,491 is Pearce's for Hoffmann's models.
    """

    omega: float = 47491.0

    def total(self, n):
        return n + self.omega * np.cbrt(n)

    def of_total(self, total):
        """The real root of m³ + ω m = N_T, cubed: Cardano's formula, then two Newton steps against its cancellation."""
        total = np.asarray(total, float)
        half, third = total / 2, self.omega / 3
        root = np.sqrt(half**2 + third**3)
        m = np.cbrt(half + root) - third / np.cbrt(half + root)
        for _ in range(2):
            m = m - (m**3 + self.omega * m - total) / (3 * m**2 + self.omega)
        return m**3


def convert(n: Any, source: Count, target: Count) -> Any:
    """The same models' N under another count."""
    return target.of_total(source.total(np.asarray(n, float)))


class Cost:
    """Base of training costs: `per_token(params)` FLOPs of one training token; `inference(params)` of one generated token, a third of it."""

    def per_token(self, params: Any) -> Any:
        raise TypeError(f"{type(self).__name__} does not say its FLOPs per token")

    def inference(self, params: Any) -> Any:
        return self.per_token(params) / 3

    def chosen(self, more: Mapping[str, float]) -> "Cost":
        """The cost of models of which `more` (granularity, bits) was chosen along; the same here."""
        return self


@dataclass(frozen=True)
class SixN(Cost):
    """C = 6·N·D."""

    def per_token(self, params):
        return flops.six_n(params)


@dataclass(frozen=True)
class SixNonEmbedding(Cost):
    """C = 6·N_E·D for N that counts as `count` says: embeddings multiply nothing (Kaplan et al. 2020)."""

    count: Count = Total()
    omega: float = 47491.0

    def per_token(self, params):
        return flops.six_n(convert(params, self.count, NonEmbedding(self.omega)))


@dataclass(frozen=True)
class WithAttention(Cost):
    """C = (6·N + 6·depth·context·width)·D, attention counted causally (half the square): 2·context·width a layer forward.

    N = 12·depth·width² and aspect = width/depth give the shape of a model from its N.
    """

    context: int = 2048
    aspect: float = 64.0

    def per_token(self, params):
        width = np.cbrt(np.asarray(params, float) * self.aspect / 12)
        return flops.training(params, 2.0 * width / self.aspect * self.context * width)


@dataclass(frozen=True)
class FineGrainedExperts(Cost):
    """C = (6·12·width² + router·width·expansion·granularity)·depth·D for N that counts all experts (Krajewski et al. 2024, arXiv 2402.07871, §6).

    N = width²·(8·expansion + 4)·depth and aspect = width/depth give the shape from N; a token meets one expert's worth of each layer. Routing grows with
    the granularity and is what limits it.
    """

    expansion: float = 64.0
    granularity: float = 1.0
    aspect: float = 64.0
    router: float = 14.0

    def per_token(self, params):
        n = np.asarray(params, float)
        width = np.cbrt(n * self.aspect / (8 * self.expansion + 4))
        return flops.six_n(n * 12 / (8 * self.expansion + 4)) + self.router * width * self.expansion * self.granularity * width / self.aspect

    def chosen(self, more):
        return replace(self, granularity=more.get("granularity", self.granularity))


@dataclass(frozen=True)
class Shape:
    """A decoder's shape, from which every convention follows."""

    width: int
    depth: int
    heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int

    @property
    def non_embedding(self) -> int:
        """4·width·heads·head_dim + 2·width·ffn a layer."""
        return self.depth * (4 * self.width * self.heads * self.head_dim + 2 * self.width * self.ffn)

    @property
    def total(self) -> int:
        """With one embedding table, tied to the head."""
        return self.non_embedding + self.vocab * self.width

    def six_n(self) -> float:
        """6·N a token."""
        return flops.six_n(self.total)

    def six_non_embedding(self) -> float:
        """6·N without embeddings."""
        return flops.six_n(self.non_embedding)

    def with_attention(self) -> float:
        """This code's convention: 3·(2·matmul parameters + mixing), the head once, causal attention half (see effllm.flops)."""
        return flops.training(self.total, 2.0 * self.depth * self.context * self.heads * self.head_dim)

    def hoffmann(self) -> float:
        """Hoffmann et al. 2022's table (appendix F): embedding as a product, attention's full square, softmax, and the head; backward twice forward."""
        s, inner = self.context, self.heads * self.head_dim
        embedding = 2 * s * self.vocab * self.width
        attention = 6 * s * self.width * inner + 2 * s * s * inner + 3 * self.heads * s * s + 2 * s * s * inner + 2 * s * inner * self.width
        dense = 4 * s * self.width * self.ffn
        return 3.0 * (embedding + self.depth * (attention + dense) + 2 * s * self.width * self.vocab) / s
