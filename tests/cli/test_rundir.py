"""The files of a run directory."""

import math

import pytest

from effllm.cli.rundir import read_json, write_json
from effllm.cli.train import doubts
from effllm.config import Experiment
from effllm.train import WSD, AdamW, Constant, Cosine


def test_numbers_that_are_not_finite_are_null(tmp_path):
    write_json(tmp_path / "result.json", {"loss": math.nan, "cost": [{"seconds": math.inf}, 1, 0.5, "nan", None]})
    assert "NaN" not in (tmp_path / "result.json").read_text() and "Infinity" not in (tmp_path / "result.json").read_text()
    assert read_json(tmp_path / "result.json") == {"loss": None, "cost": [{"seconds": None}, 1, 0.5, "nan", None]}


@pytest.mark.parametrize("optimizer,steps,words", [
    (AdamW(learning_rate=0.0), 200, "0 at every step"), (AdamW(), 50, "still rises at the last of steps=50, to 0.0005"), (AdamW(schedule=WSD(decay=0.0)), 100, "still rises"),
    (AdamW(schedule=Constant(warmup=10)), 11, None), (AdamW(schedule=Constant()), 5, None), (AdamW(schedule=Cosine(warmup=2)), 3, None), (AdamW(), 1, None),
])  # fmt: skip
def test_a_learning_rate_that_is_hardly_meant_is_said(optimizer, steps, words):
    found = doubts(Experiment(optimizer=optimizer, steps=steps))
    assert found == [] if words is None else words in found[0]
