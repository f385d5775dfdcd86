"""DSIR: importance resampling toward a target distribution, by hashed n-grams.

Letters: d document, h bucket.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_TOKEN = re.compile(r"\w+|[^\w\s]+")


@dataclass(frozen=True, eq=False)
class DSIR:
    """log w_d = Σ_h count_dh · (log(p_h + ε) − log(q_h + ε)): p from target texts, q from the raw ones (Xie et al. 2023, arXiv 2302.03169).

    A text's counts are of its words (runs of letters and digits, or of symbols) and their pairs, in lower case, in `buckets` by SHA-256. Sample with
    gumbel_topk(key, log w, count). log_ratio_h: (buckets,).

    smoothing is added to every count before p and q are formed. The authors' library has smoothing 0 and ε 1e-8: with few target texts that ranks
    first what merely avoids buckets that the target lacks; so the default here is 1.
    """

    log_ratio_h: np.ndarray
    order: int = 2

    @classmethod
    def fit(cls, target: Iterable[str], raw: Iterable[str], *, order: int = 2, buckets: int = 10_000, smoothing: float = 1.0, epsilon: float = 1e-8) -> "DSIR":
        """Raises ValueError for a side without words, or negative smoothing."""
        counts = [sum((bucket_counts(text, order, buckets) for text in texts), np.zeros(buckets, np.int64)) for texts in (target, raw)]
        return cls.from_counts(*counts, order=order, smoothing=smoothing, epsilon=epsilon)

    @classmethod
    def from_counts(
        cls, target_h: np.ndarray, raw_h: np.ndarray, *, order: int = 2, smoothing: float = 1.0, epsilon: float = 1e-8,
    ) -> "DSIR":
        """The same from the bucket_counts() of all target texts and all raw ones."""
        if smoothing < 0:
            raise ValueError(f"smoothing={smoothing}: give 0 or more")
        for name, count_h in (("target", target_h), ("raw", raw_h)):
            if not count_h.sum():
                raise ValueError(f"the {name} texts have no words to learn from")
        p_h, q_h = ((count_h + smoothing) / (count_h.sum() + smoothing * len(count_h)) for count_h in (target_h, raw_h))
        return cls(np.log(p_h + epsilon) - np.log(q_h + epsilon), order)

    def log_weight(self, text: str) -> float:
        """log w of a text; long texts have weights of larger size, and texts below some length (100 tokens in the library) are better left out."""
        return float(bucket_counts(text, self.order, len(self.log_ratio_h)) @ self.log_ratio_h)

    def log_weights(self, texts: Iterable[str]) -> np.ndarray:
        """log_weight() of each, (D,)."""
        return np.array([self.log_weight(text) for text in texts])


def bucket_counts(text: str, order: int, buckets: int) -> np.ndarray:
    """(buckets,) int64: how many 1 … order-grams of the text fall into each."""
    words = _TOKEN.findall(text.lower())
    grams = (" ".join(words[i : i + n]) for n in range(1, order + 1) for i in range(len(words) - n + 1))
    return np.bincount([int(hashlib.sha256(gram.encode()).hexdigest(), 16) % buckets for gram in grams], minlength=buckets)
