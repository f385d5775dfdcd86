"""What every speed benchmark shares: rounds of fresh processes, provenance, results.json and the table in the README."""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MARKS = "<!-- results -->", "<!-- end of results -->"


def seconds(function: Callable[[], Any], repeats: int, warmups: int = 2) -> list[float]:
    """Wall times of `repeats` calls after `warmups`; `function` returns when its work is done."""
    for _ in range(warmups):
        function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


def rounds(module: str, arms: Sequence[str], count: int, *options: str) -> dict[str, list[dict[str, Any]]]:
    """Run `python -m MODULE --arm ARM` for each arm in turn, `count` times over, each in a process of its own; its last line is JSON.

    Turns, because a machine that slows down then slows all arms; processes, because one framework's idle threads disturb another's.
    """
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for i in range(count):
        for arm in arms:
            done = subprocess.run([sys.executable, "-m", module, "--arm", arm, *options], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{arm} failed:\n{done.stderr}")
            found[arm].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {i + 1} of {count}: {arm}: {found[arm][-1]}", flush=True)
    return found


def median(found: list[dict[str, Any]], key: str) -> float:
    """The median over rounds of one figure."""
    return statistics.median(f[key] for f in found)


def versions(*packages: str) -> dict[str, str]:
    """Installed versions, Python's first."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def save(directory: Path, results: dict[str, Any], table: str) -> None:
    """Write results.json, and `table` between the marks of README.md."""
    _replace(directory / "results.json", json.dumps(results, indent=1) + "\n")
    readme = directory / "README.md"
    before, _, rest = readme.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    _replace(readme, f"{before}{MARKS[0]}\n{table}{MARKS[1]}{after}")


def _replace(file: Path, text: str) -> None:
    """Write a file whole or not at all, whenever the process is ended."""
    draft = file.with_suffix(f"{file.suffix}.new")
    draft.write_text(text)
    draft.replace(file)
