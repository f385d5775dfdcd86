"""FineWeb's own rules."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from effllm.data.filters.base import KEEP, Filter, Verdict
from effllm.data.filters.gopher_repetition import duplicates
from effllm.data.filters.words import words

TERMINAL = tuple(".!?‼‽⁇⁈⁉。．｡！？﹒﹖﹗؟۔।॥։።፧")


@dataclass(frozen=True)
class FineWeb(Filter):
    """The rules that FineWeb adds to Gopher's and C4's (Penedo et al. 2024, arXiv 2406.17557, §3.4), over non-blank lines.

        lines that end in TERMINAL ≥ min_punctuated           punctuation (share of lines)
        lines of at most `short` characters ≤ max_short       short_lines (share of lines)
        characters of repeated lines ≤ max_repeated           repeated_lines (share of characters that are not newlines)
        newlines / words ≤ max_newlines                       list
    tested in this order; "empty" where no line is.
    """

    min_punctuated: float = 0.12
    max_short: float = 0.67
    short: int = 30
    max_repeated: float = 0.01
    max_newlines: float = 0.3
    split: Callable[[str], Sequence[str]] = words

    def __call__(self, text):
        lines = [line for line in text.split("\n") if line.strip()]
        if not lines:
            return Verdict(False, "empty")
        newlines = text.count("\n")
        if sum(line.endswith(TERMINAL) for line in lines) / len(lines) < self.min_punctuated:
            return Verdict(False, "punctuation")
        if sum(len(line) <= self.short for line in lines) / len(lines) > self.max_short:
            return Verdict(False, "short_lines")
        if duplicates(lines)[1] / (len(text) - newlines) > self.max_repeated:
            return Verdict(False, "repeated_lines")
        if newlines / max(len(self.split(text)), 1) > self.max_newlines:
            return Verdict(False, "list")
        return KEEP
