"""Words and phrases that a text may not contain."""

import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from effllm.data.filters.base import KEEP, Filter, Verdict


@dataclass(frozen=True)
class Blocklist(Filter):
    """Drops a text in which blocked phrases occur more than `allowed` times (C4's rule has allowed=0; arXiv 1910.10683, §2.2).

    phrases: given outright; path: a file with one phrase a line, # for comments. A phrase matches without regard to case where
    neither neighbour is a letter or digit. Reason: blocked. Raises ValueError for an empty list, FileNotFoundError for a missing file.
    """

    phrases: tuple[str, ...] = ()
    path: str | None = None
    allowed: int = 0

    def __post_init__(self):
        self._pattern  # noqa: B018 - a bad list is refused where it is given

    @functools.cached_property
    def _pattern(self) -> re.Pattern:
        listed = [*self.phrases]
        if self.path is not None:
            if not Path(self.path).is_file():
                raise FileNotFoundError(f"{self.path} is not a file: Blocklist.path names one with a phrase a line")
            listed += [line for line in Path(self.path).read_text().splitlines() if not line.startswith("#")]
        phrases = sorted({phrase.strip().casefold() for phrase in listed} - {""}, key=lambda p: (-len(p), p))
        if not phrases:
            raise ValueError("Blocklist has no phrase: give phrases=(…) or the path of a file with one a line")
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, phrases))})(?!\w)")

    def stamp(self):
        return "" if self.path is None else hashlib.sha256(Path(self.path).read_bytes()).hexdigest()

    def __call__(self, text):
        hits = 0
        for hits, _ in enumerate(self._pattern.finditer(text.casefold()), 1):
            if hits > self.allowed:
                return Verdict(False, "blocked")
        return KEEP
