"""C4's line and page rules."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from effllm.data.filters.base import KEEP, Filter, Verdict
from effllm.data.filters.words import sentences

_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


@dataclass(frozen=True)
class C4(Filter):
    """The rules of C4 (Raffel et al. 2020, arXiv 1910.10683, §2.2, and its published code): lines go, or the whole text.

    A line goes if a word of it exceeds max_word characters; unless `any_ending`, if it ends neither in . ? ! " ' nor is an
    ellipsis the end; if it has fewer than min_words words between white space; if it says "javascript" or a phrase of POLICY.
    The text goes if a line left by then has "lorem ipsum" or {, or if fewer than min_sentences sentences, or no text, remain. Wikipedia's [12], [edit] and
    [citation needed] are removed from lines. Reasons: lorem_ipsum, curly_bracket, few_sentences. FineWeb sets any_ending=True.
    """

    min_sentences: int = 5
    min_words: int = 3
    max_word: int = 1000
    any_ending: bool = False
    count: Callable[[str], int] = sentences

    def __call__(self, text):
        return self.judge(text)[0]

    def judge(self, text):
        kept, found = [], 0
        for line in text.splitlines():
            words = line.split()
            if len(words) < self.min_words or len(line) > self.max_word and max(map(len, words)) > self.max_word:
                continue
            line = _CITATION.sub("", line.strip())
            if not self.any_ending and (not line.endswith((".", "?", "!", '"', "'")) or line.endswith("...")):
                continue
            lower = line.lower()
            if "lorem ipsum" in lower:
                return Verdict(False, "lorem_ipsum"), text
            if "javascript" in lower:
                continue
            if "{" in line:
                return Verdict(False, "curly_bracket"), text
            if any(phrase in lower for phrase in POLICY):
                continue
            found += self.count(line)
            kept.append(line)
        left = "\n".join(kept).strip()
        if found < self.min_sentences or not left:
            return Verdict(False, "few_sentences"), text
        return KEEP, left
