"""The files of a run directory."""

import math

from effllm.cli.rundir import read_json, write_json


def test_numbers_that_are_not_finite_are_null(tmp_path):
    write_json(tmp_path / "result.json", {"loss": math.nan, "cost": [{"seconds": math.inf}, 1, 0.5, "nan", None]})
    assert "NaN" not in (tmp_path / "result.json").read_text() and "Infinity" not in (tmp_path / "result.json").read_text()
    assert read_json(tmp_path / "result.json") == {"loss": None, "cost": [{"seconds": None}, 1, 0.5, "nan", None]}
