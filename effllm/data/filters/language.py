"""Which language a text is in: a naive Bayes model of character trigrams."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from effllm.data.filters.base import KEEP, Filter, Verdict
from effllm.data.filters.language_text import SAMPLES

_BUCKETS = 1 << 15


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """p(language | text) ∝ Π_i p(g_i | language) over the text's character 1-, 2- and 3-grams g_i, all languages equally likely before.

    p(g | l) = (count + smoothing) / (total + smoothing · buckets) over hashed grams of the case-folded text (Cavnar & Trenkle 1994 use the same
    features). logp_lb: (languages, buckets). The evidence is divided by 3, because each character stands in three grams.
    """

    languages: tuple[str, ...]
    logp_lb: np.ndarray

    @classmethod
    def fit(cls, samples: Mapping[str, Iterable[str]], smoothing: float = 0.05) -> "LanguageModel":
        """The model of some texts of each language. Raises ValueError for fewer than two languages or one without text."""
        if len(samples) < 2:
            raise ValueError(f"a language model needs two languages or more, got {len(samples)}")
        rows = []
        for language, texts in samples.items():
            count_b = sum((np.bincount(_grams(text), minlength=_BUCKETS) for text in texts), np.zeros(_BUCKETS))
            if not count_b.any():
                raise ValueError(f"language {language!r} has no text to learn from")
            rows.append(np.log((count_b + smoothing) / (count_b.sum() + smoothing * _BUCKETS)))
        return cls(tuple(samples), np.stack(rows))

    def probabilities(self, text: str) -> dict[str, float]:
        """p(language | text) of every language; they sum to 1, and are equal where the text has no letters. The first 10,000 characters count."""
        score_l = self.logp_lb[:, _grams(text[:10_000])].sum(1) / 3
        p_l = np.exp(score_l - score_l.max())
        return dict(zip(self.languages, (p_l / p_l.sum()).tolist()))


@functools.cache
def builtin() -> LanguageModel:
    """The model of the short samples in language_text.py: enough to tell whole paragraphs of those languages apart."""
    return LanguageModel.fit({language: (text,) for language, text in SAMPLES.items()})


@dataclass(frozen=True)
class Language(Filter):
    """Keeps a text whose language is one of `languages` with probability ≥ min_probability in all (FineWeb's threshold for English is 0.65).

    `model` maps a text to {language: probability}; by default the built-in one, which knows the languages of SAMPLES. Reason:
    language. Raises ValueError for a built-in language that it does not know.
    """

    languages: tuple[str, ...] = ("en",)
    min_probability: float = 0.65
    model: "LanguageModel | None" = None

    def __post_init__(self):
        known = (self.model or builtin()).languages
        if unknown := [language for language in self.languages if language not in known]:
            raise ValueError(f"Language: no model of {', '.join(unknown)}; there are {', '.join(known)}")

    def __call__(self, text):
        found = (self.model or builtin()).probabilities(text)
        return KEEP if sum(found[language] for language in self.languages) >= self.min_probability else Verdict(False, "language")


def _grams(text: str) -> np.ndarray:
    """Buckets of the 1-, 2- and 3-grams of letters, with one space for everything between words."""
    letters = " ".join("".join(c if c.isalpha() else " " for c in text.casefold()).split())
    if not letters:
        return np.zeros(0, np.int64)
    code = np.frombuffer(f" {letters} ".encode("utf-32-le"), np.uint32).astype(np.uint64)
    grams, out = np.zeros(len(code), np.uint64), []
    for n in range(3):
        grams = (grams[: len(code) - n] * np.uint64(0x9E3779B97F4A7C15) + code[n:] + np.uint64(1)) * np.uint64(0xD6E8FEB86659FD93)
        out.append(grams >> np.uint64(49))
    return np.concatenate(out).astype(np.int64)
