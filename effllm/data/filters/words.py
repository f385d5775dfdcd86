"""Words and sentences for the rules that count them."""

import functools
import re

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]+")
_SENTENCE_END = re.compile(r"(?<![.!?。！？])[.!?。！？]++[\"'”’)\]]*(?=\s|$)")


@functools.lru_cache(maxsize=4)
def words(text: str) -> tuple[str, ...]:
    """Words (letters, digits, underscores, inner apostrophes) and runs of symbols, in order. The last few texts are remembered.

    The filters take any other splitter in their `split` field: spaCy's, for example, gives datatrove's numbers.
    """
    return tuple(_WORD.findall(text))


def sentences(text: str) -> int:
    """How many sentences: ends marked by . ! ? before white space or the end; at least 1 in a text that is not blank."""
    return max(len(_SENTENCE_END.findall(text)), 1) if text.strip() else 0


def is_symbol(word: str) -> bool:
    """Whether a word has neither letter nor digit."""
    return not any(map(str.isalnum, word))
