"""A trained linear quality classifier over hashed word n-grams."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from effllm.data.filters.base import KEEP, Filter, Verdict

_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True, eq=False)
class LinearClassifier:
    """p(good | text) = σ(w · x + b), x_h = the share of the text's word 1…order-grams that fall into bucket h.

    The form of fastText's supervised mode with one output (Joulin et al. 2017, arXiv 1607.01759), which DCLM (arXiv 2406.11794) and
    CCNet-like pipelines train on good against average pages. weight_h: (2^bits,) float32.
    """

    weight_h: np.ndarray
    bias: float
    order: int

    @classmethod
    def fit(cls, good: Sequence[str], other: Sequence[str], *, order: int = 2, bits: int = 18, epochs: int = 20, rate: float = 50.0,
            seed: int = 0) -> "LinearClassifier":
        """Logistic regression by averaged stochastic gradient, both classes weighing the same; rate falls linearly to 0.

        x has norm about (words)^-½, so `rate` is larger than in a dense model. The same texts and seed give the same weights.
        Raises ValueError where a class has no text, or for an order or bits out of range.
        """
        if not good or not other:
            raise ValueError(f"a classifier learns from both classes: got {len(good)} good and {len(other)} other texts")
        if not 1 <= order <= 5 or not 8 <= bits <= 26:
            raise ValueError(f"order={order}, bits={bits}: order is 1 to 5 and bits 8 to 26")
        rows = [_features(text, order, bits) for text in (*good, *other)]
        label = np.r_[np.ones(len(good)), np.zeros(len(other))]
        share = np.where(label == 1, 0.5 / len(good), 0.5 / len(other)) * len(rows)
        weight_h, bias, total_h, total_b = np.zeros(1 << bits), 0.0, np.zeros(1 << bits), 0.0
        generator, steps, step = np.random.default_rng(seed), epochs * len(rows), 0
        for _ in range(epochs):
            for i in generator.permutation(len(rows)):
                at, x = rows[i]
                slope = rate * (1 - step / steps) * share[i] * (_sigmoid(weight_h[at] @ x + bias) - label[i])
                left = 1 - step / steps
                weight_h[at] -= slope * x
                bias -= slope / rate
                total_h[at] -= left * slope * x
                total_b -= left * slope / rate
                step += 1
        return cls(total_h.astype(np.float32), float(total_b), order)

    def __call__(self, text: str) -> float:
        """p(good | text); σ(b) for a text without words."""
        at, x = _features(text, self.order, int(np.log2(len(self.weight_h))))
        return float(_sigmoid(self.weight_h[at] @ x + self.bias))

    def save(self, path: str | Path) -> None:
        """Writes an .npz."""
        with open(path, "wb") as file:
            np.savez_compressed(file, weight_h=self.weight_h, bias=self.bias, order=self.order)

    @classmethod
    def load(cls, path: str | Path) -> "LinearClassifier":
        """What save() wrote. Raises ValueError, naming the file, for anything else."""
        try:
            with np.load(path) as saved:
                return cls(saved["weight_h"], float(saved["bias"]), int(saved["order"]))
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever NumPy and zipfile raise for a file of another kind
            raise ValueError(f"{path} is no classifier that LinearClassifier.save() wrote: {error}") from error


@dataclasses.dataclass(frozen=True)
class Quality(Filter):
    """Keeps a text with score(text) ≥ threshold. Reason: low_quality.

    `score` is any callable; a path is a file of LinearClassifier.save(). DCLM keeps the top 10 % of its pool: take the threshold
    from quantile() of scores on a sample. FineWeb-Edu keeps ≥ 3 of 5.
    """

    score: Callable[[str], float] | str
    threshold: float = 0.5

    def __post_init__(self):
        if isinstance(self.score, str):
            object.__setattr__(self, "score", LinearClassifier.load(self.score))

    def __call__(self, text):
        return KEEP if self.score(text) >= self.threshold else Verdict(False, "low_quality")


def quantile(scores: Sequence[float], keep: float) -> float:
    """The threshold at which the best share `keep` of `scores` is kept. Raises ValueError outside (0, 1], without scores, or where one is NaN."""
    if not 0 < keep <= 1 or not len(scores):
        raise ValueError(f"keep={keep} of {len(scores)} scores: give a share in (0, 1] and some scores")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN, which is neither above nor below any threshold: score the text again, or leave it out")
    ordered = np.sort(np.asarray(scores))[::-1]
    return float(ordered[max(int(round(keep * len(ordered))), 1) - 1])


def hashed_ngrams(text: str, order: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(buckets, counts) of the text's word 1…order-grams, each hashed to `bits` bits; a bucket stands once."""
    word = np.fromiter((zlib.crc32(w.encode()) for w in text.casefold().split()), np.uint64)
    grams, parts = np.zeros(len(word), np.uint64), []
    for n in range(min(order, len(word))):
        grams = (grams[: len(word) - n] ^ word[n:]) * _MIX
        grams ^= grams >> np.uint64(29)
        parts.append(grams >> np.uint64(64 - bits))
    at, count = np.unique(np.concatenate(parts) if parts else np.zeros(0, np.uint64), return_counts=True)
    return at.astype(np.int64), count


def _features(text: str, order: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(buckets, their share of all n-grams)."""
    at, count = hashed_ngrams(text, order, bits)
    return at, count / max(count.sum(), 1)


def _sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
