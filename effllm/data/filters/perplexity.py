"""Bits per byte under some model, between two bounds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from effllm.data.filters.base import KEEP, Filter, Verdict, check_range
from effllm.data.ngram_model import NgramModel


@dataclass(frozen=True)
class Perplexity(Filter):
    """low ≤ model(text) ≤ high, in bits per byte: too easy is boilerplate, too hard is noise (Wenzek et al. 2020, arXiv 1911.00359).

    `model` is anything that maps a text to its mean bits per byte: NgramModel.fit(text) here, or a trained run; a string is a
    file of text that you want, of which a 5-gram model is fitted. The bounds have no published value in these units: take them
    from quantiles of the model's scores on such text. Reasons: easy, hard. Raises FileNotFoundError for a missing file.
    """

    model: Callable[[str], float] | str
    low: float = 0.0
    high: float = float("inf")

    def __post_init__(self):
        if isinstance(self.model, str):
            object.__setattr__(self, "model", NgramModel.fit(Path(self.model).read_bytes()))
        check_range("Perplexity", self.low, self.high)

    def __call__(self, text):
        bits = self.model(text)
        if bits < self.low:
            return Verdict(False, "easy")
        return KEEP if bits <= self.high else Verdict(False, "hard")
