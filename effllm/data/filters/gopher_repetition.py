"""Gopher's repetition rules."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from effllm.data.filters.base import KEEP, Filter, Verdict
from effllm.data.filters.words import words

_LINES, _PARAGRAPHS = re.compile(r"\n+"), re.compile(r"\n{2,}")


@dataclass(frozen=True)
class GopherRepetition(Filter):
    """The repetition rules of Gopher (Rae et al. 2021, arXiv 2112.11446, table A1); all are upper bounds.

    paragraphs, lines: share of those that occurred before in the text, and share of the text's characters that they hold;
    top[i]: characters of the most frequent (i+2)-gram, spaces included, times its count, over the text's characters;
    repeated[i]: characters of (i+5)-grams met before, read from the left without overlap, over the text's characters.
    Reasons: paragraphs, paragraph_characters, lines, line_characters, top_2 …, repeated_5 … in this order; empty.
    """

    paragraphs: float = 0.3
    paragraph_characters: float = 0.2
    lines: float = 0.3
    line_characters: float = 0.2
    top: tuple[float, ...] = (0.2, 0.18, 0.16)
    repeated: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    split: Callable[[str], Sequence[str]] = words

    def __call__(self, text):
        if not text:
            return Verdict(False, "empty")
        for name, parts, share, characters in (
            ("paragraph", _PARAGRAPHS.split(text.strip()), self.paragraphs, self.paragraph_characters),
            ("line", _LINES.split(text), self.lines, self.line_characters),
        ):
            count, size = duplicates(parts)
            if count / len(parts) > share:
                return Verdict(False, f"{name}s")
            if size / len(text) > characters:
                return Verdict(False, f"{name}_characters")
        return self._grams(text)

    def _grams(self, text: str) -> Verdict:
        tokens = self.split(text)
        ends = np.cumsum([0, *map(len, tokens)])
        for n, at, code in repeated_grams(tokens, max(len(self.top) + 1, len(self.repeated) + 4)):
            if n - 2 < len(self.top) and len(tokens) >= n:
                first, count = _top(at, code)
                if (ends[first + n] - ends[first] + n - 1) * count / len(text) > self.top[n - 2]:
                    return Verdict(False, f"top_{n}")
            if 0 <= n - 5 < len(self.repeated) and _met_again(at, code, n, ends) / len(text) > self.repeated[n - 5]:
                return Verdict(False, f"repeated_{n}")
        return KEEP


def duplicates(parts: Sequence[str]) -> tuple[int, int]:
    """(how many parts occurred before, their characters)."""
    return len(parts) - len(set(parts)), sum(map(len, parts)) - sum(map(len, set(parts)))


def repeated_grams(tokens: Sequence[str], longest: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(n, at, code) for n = 2 … longest: where an n-gram stands that occurs more than once, and equal codes for equal ones.

    An (n+1)-gram can only repeat where its n-gram does, so every level looks at what the one before left.
    """
    number: dict[str, int] = {}
    ids = np.fromiter((number.setdefault(token, len(number)) for token in tokens), np.int64, len(tokens))
    at, code = _twice(np.arange(len(ids)), ids)
    for n in range(2, longest + 1):
        fits = at + n <= len(ids)
        at, code = _twice(at[fits], code[fits] * len(number) + ids[at[fits] + n - 1])
        yield n, at, code


def _twice(at: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positions whose code is not alone, and their codes as small integers."""
    if not len(code):
        return at, code
    _, code, counts = np.unique(code, return_inverse=True, return_counts=True)
    left = counts[code] > 1
    return at[left], code[left]


def _top(at: np.ndarray, code: np.ndarray) -> tuple[int, int]:
    """(where the most frequent gram first stands, how often it occurs): the earliest of equals, position 0 if none repeats."""
    if not len(at):
        return 0, 1
    _, first, counts = np.unique(code, return_index=True, return_counts=True)
    most = counts.max()
    return int(at[first[counts == most].min()]), int(most)


def _met_again(at: np.ndarray, code: np.ndarray, n: int, ends: np.ndarray) -> int:
    """Characters of grams met before, from the left; a gram that counts is passed over whole."""
    met, size, free = set(), 0, 0
    for i, gram in zip(at.tolist(), code.tolist()):
        if i < free:
            continue
        if gram in met:
            size += int(ends[i + n] - ends[i])
            free = i + n
        met.add(gram)
    return size
