"""Length limits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from effllm.data.filters.base import KEEP, Filter, Verdict, check_range
from effllm.data.filters.words import words


@dataclass(frozen=True)
class Length(Filter):
    """min_characters ≤ characters ≤ max_characters and min_words ≤ words ≤ max_words; None is no limit.

    Reasons: short, long, few_words, many_words. Raises ValueError where a lower bound exceeds its upper bound.
    """

    min_characters: int = 1
    max_characters: int | None = None
    min_words: int = 0
    max_words: int | None = None
    split: Callable[[str], Sequence[str]] = words

    def __post_init__(self):
        check_range("Length characters", self.min_characters, _limit(self.max_characters))
        check_range("Length words", self.min_words, _limit(self.max_words))

    def __call__(self, text):
        if len(text) < self.min_characters:
            return Verdict(False, "short")
        if len(text) > _limit(self.max_characters):
            return Verdict(False, "long")
        if not self.min_words and self.max_words is None:
            return KEEP
        count = len(self.split(text))
        if count < self.min_words:
            return Verdict(False, "few_words")
        return KEEP if count <= _limit(self.max_words) else Verdict(False, "many_words")


def _limit(value: int | None) -> float:
    return float("inf") if value is None else value
