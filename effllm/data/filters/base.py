"""What every filter is: a value that looks at a text and answers (keep, reason)."""

import abc
import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from effllm.data.source import Document


class Verdict(NamedTuple):
    """`keep`, and in one word why not; `reason` is empty where the text is kept."""

    keep: bool
    reason: str = ""


KEEP = Verdict(True)


class Filter(abc.ABC):
    """A rule about one text. Subclasses are frozen dataclasses of thresholds.

    `filter(text)` is the Verdict; `filter.judge(text)` adds the text that goes on, which differs where a filter also cleans
    (C4 drops lines, PII masks). A threshold is inclusive: a text that lies exactly on it is kept.
    """

    @abc.abstractmethod
    def __call__(self, text: str) -> Verdict:
        """Whether `text` is kept, and else why not."""

    def judge(self, text: str) -> tuple[Verdict, str]:
        """(verdict, the text that goes on)."""
        return self(text), text

    def stamp(self) -> str:
        """A hex digest of whatever the fields refer to outside themselves, such as a file; empty where nothing is."""
        return ""


def judge_all(text: str, filters: Sequence[Filter]) -> tuple[Verdict, str]:
    """The first verdict against `text`, as "Filter.reason", or KEEP and the text that every filter has cleaned in turn."""
    for rule in filters:
        verdict, text = rule.judge(text)
        if not verdict.keep:
            return Verdict(False, f"{type(rule).__name__}.{verdict.reason}"), text
    return KEEP, text


def keep(documents: Iterable[Document], filters: Sequence[Filter], dropped: Counter | None = None) -> Iterator[Document]:
    """The documents that pass `filters`, with their ids and domains; `dropped` counts the others by reason."""
    for document in documents:
        verdict, text = judge_all(document.text.decode(), filters)
        if verdict.keep:
            yield dataclasses.replace(document, text=text.encode())
        elif dropped is not None:
            dropped[verdict.reason] += 1


def check_range(name: str, low: float, high: float) -> None:
    """Raises ValueError unless low ≤ high."""
    if low > high:
        raise ValueError(f"{name}: the lower bound {low} lies above the upper bound {high}; swap them")
