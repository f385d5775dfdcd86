"""Drops what shares text with an evaluation set."""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

from effllm.data.dedup.contamination import Contamination
from effllm.data.filters.base import KEEP, Filter, Verdict


@dataclass(frozen=True)
class Uncontaminated(Filter):
    """Drops a text of whose n-word windows more than max_share stand in the evaluation set (Brown et al. 2020, arXiv 2005.14165, app. C: 13 words, none).

    evaluation: a file with one evaluation text a line. Reason: contaminated. Raises FileNotFoundError for a missing file, ValueError for
    one without words.
    """

    evaluation: str
    n: int = 13
    max_share: float = 0.0

    def __post_init__(self):
        self._check  # noqa: B018 - a bad file is refused where it is given

    @functools.cached_property
    def _check(self) -> Contamination:
        if not Path(self.evaluation).is_file():
            raise FileNotFoundError(f"{self.evaluation} is not a file: Uncontaminated.evaluation names one with an evaluation text a line")
        return Contamination.of(Path(self.evaluation).read_bytes().splitlines(), self.n)

    def stamp(self):
        return hashlib.sha256(Path(self.evaluation).read_bytes()).hexdigest()

    def __call__(self, text):
        return KEEP if self._check.share([text.encode()])[0] <= self.max_share else Verdict(False, "contaminated")
