"""Whether a corpus holds text of an evaluation set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from effllm.data.dedup.shingle import shingles


@dataclass(frozen=True, eq=False)
class Contamination:
    """The n-word windows of evaluation texts, to look for in a corpus; 13 words as in GPT-3 (Brown et al. 2020, arXiv 2005.14165, app. C).

    An evaluation text shorter than n words counts as one window of all its words, and is met only in a text of just those words.
    """

    hash_s: np.ndarray
    item_s: np.ndarray
    items: int
    n: int

    @classmethod
    def of(cls, evaluation: Sequence[bytes], n: int = 13) -> "Contamination":
        """Raises ValueError where no evaluation text has a word."""
        hash_s, start_d = shingles(evaluation, n)
        if not len(hash_s):
            raise ValueError("the evaluation set has no words: nothing can be compared with it")
        item_s = np.repeat(np.arange(len(evaluation)), np.diff(start_d))
        order = np.argsort(hash_s, kind="stable")
        return cls(hash_s[order], item_s[order], len(evaluation), n)

    def share(self, texts: Sequence[bytes]) -> np.ndarray:
        """(D,): the share of each text's windows that stand in the evaluation set; above 0 the text is contaminated."""
        hash_s, start_d = shingles(texts, self.n)
        hit = np.concatenate([[0], np.cumsum(self._found(hash_s))])
        return (hit[start_d[1:]] - hit[start_d[:-1]]) / np.maximum(np.diff(start_d), 1)

    def leaked(self, texts: Sequence[bytes]) -> np.ndarray:
        """(items,): the share of each evaluation text's windows that stand in `texts`."""
        seen = np.isin(self.hash_s, shingles(texts, self.n)[0])
        total = np.bincount(self.item_s, minlength=self.items)
        return np.bincount(self.item_s, seen, self.items) / np.maximum(total, 1)

    def _found(self, hash_s: np.ndarray) -> np.ndarray:
        at = np.minimum(np.searchsorted(self.hash_s, hash_s), len(self.hash_s) - 1)
        return self.hash_s[at] == hash_s
