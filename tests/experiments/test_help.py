"""What every experiment answers to --help: how it is used. It runs nothing and changes no result."""

import runpy
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def files():
    """When each file below experiments/ was written, compiled modules aside."""
    return {file: file.stat().st_mtime_ns for file in EXPERIMENTS.rglob("*") if file.is_file() and file.suffix != ".pyc"}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("file", sorted(EXPERIMENTS.rglob("run.py")), ids=lambda file: str(file.parent.relative_to(EXPERIMENTS)))
def test_help_only_helps(file, monkeypatch, capsys):
    def refuse(path, *_, **__):
        raise AssertionError(f"--help writes {path}")

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(sys, "argv", [str(file), "--help"])
    before = files()
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(file), run_name="__main__")
    assert ended.value.code == 0 and "usage:" in capsys.readouterr().out and files() == before
