"""Gopher's quality rules."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from effllm.data.filters.base import KEEP, Filter, Verdict, check_range
from effllm.data.filters.words import is_symbol, words

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")


@dataclass(frozen=True)
class GopherQuality(Filter):
    """The quality rules of Gopher (Rae et al. 2021, arXiv 2112.11446, table A1), counted as FineWeb's pipeline counts them.

    With n tokens of `split` (symbols included) and m of them words (a letter or digit):
        min_words ≤ m ≤ max_words                                  short, long
        min_mean ≤ mean length of the m words ≤ max_mean           short_words, long_words (characters)
        "#" / n ≤ max_symbols and ("..." + "…") / n ≤ max_symbols  hashes, ellipses
        lines that begin with • or - ≤ max_bullets                 bullets (share of lines)
        lines that end with an ellipsis ≤ max_ellipsis_ends        ellipsis_ends (share of lines)
        tokens with a letter / n ≥ min_alphabetic                  not_alphabetic
        different `stop_words` that occur ≥ min_stop_words         few_stop_words
    tested in this order. A text without words is "short" whatever min_words says.
    """

    min_words: int = 50
    max_words: int = 100_000
    min_mean: float = 3
    max_mean: float = 10
    max_symbols: float = 0.1
    max_bullets: float = 0.9
    max_ellipsis_ends: float = 0.3
    min_alphabetic: float = 0.8
    min_stop_words: int = 2
    stop_words: tuple[str, ...] = STOP_WORDS
    split: Callable[[str], Sequence[str]] = words

    def __post_init__(self):
        check_range("GopherQuality words", self.min_words, self.max_words)
        check_range("GopherQuality mean length", self.min_mean, self.max_mean)

    def __call__(self, text):
        tokens = Counter(self.split(text))
        lengths = [(len(token), count) for token, count in tokens.items() if not is_symbol(token)]
        found, total = sum(count for _, count in lengths), sum(tokens.values())
        if not found or found < self.min_words:
            return Verdict(False, "short")
        if found > self.max_words:
            return Verdict(False, "long")
        mean = sum(length * count for length, count in lengths) / found
        if mean < self.min_mean:
            return Verdict(False, "short_words")
        if mean > self.max_mean:
            return Verdict(False, "long_words")
        if text.count("#") / total > self.max_symbols:
            return Verdict(False, "hashes")
        if (text.count("...") + text.count("…")) / total > self.max_symbols:
            return Verdict(False, "ellipses")
        lines = text.splitlines()
        if sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines) > self.max_bullets:
            return Verdict(False, "bullets")
        if sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines) > self.max_ellipsis_ends:
            return Verdict(False, "ellipsis_ends")
        if sum(count for token, count in tokens.items() if any(map(str.isalpha, token))) / total < self.min_alphabetic:
            return Verdict(False, "not_alphabetic")
        if sum(word in tokens for word in self.stop_words) < self.min_stop_words:
            return Verdict(False, "few_stop_words")
        return KEEP
