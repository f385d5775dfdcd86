"""Inputs at the edge: each gives the right answer or one clear line, never a plausible wrong one."""

import numpy as np
import pytest

from effllm import scaling


def test_a_score_that_never_changes_has_no_trend():
    x = np.geomspace(1, 100, 8)
    assert scaling.trend(x, np.full(8, 0.25)).verdict == "no trend"
    with pytest.raises(ValueError, match="finite scores"):
        scaling.trend(x, np.where(np.arange(8) == 3, np.nan, x))
    with pytest.raises(ValueError, match="2 scales do not make a trend"):
        scaling.trend(np.repeat([1.0, 2.0], 4), np.arange(8))


@pytest.mark.parametrize("change,words", [
    (dict(accuracy=np.full(8, np.nan)), "accuracy must lie in 0…1"), (dict(questions=0), "questions ≥ 1"), (dict(chance=1.0), "chance < 1"),
])  # fmt: skip
def test_emergence_gives_no_verdict_on_nothing(change, words):
    x = np.geomspace(1e7, 1e10, 8)
    given = dict(x=x, loss=1.8 + 40 * x**-0.2, accuracy=np.linspace(0, 0.5, 8), questions=100, chance=0.0)
    with pytest.raises(ValueError, match=words):
        scaling.emergence(**given | change)
