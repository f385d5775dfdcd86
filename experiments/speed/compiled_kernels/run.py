"""Are the kernels right where they run? tests/laws/test_compiled_kernels.py on a GPU: values and all gradients against the op's reference, by kernel and dtype.

    pip install -e '.[gpu,test]' && python -m experiments.speed.compiled_kernels.run     # a stopped run goes on
    python -m experiments.speed.compiled_kernels.run --check     # one kernel, interpreted, on a CPU: prints, writes nothing
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from experiments.speed import arms

DTYPES = "bfloat16", "float32"


def sides(check: bool = False) -> dict[str, arms.Arm]:
    """An arm for every kernel; a check takes one."""
    from effllm import kernels, ops

    names = ["linear_recurrence"] if check else [name for name in kernels.__all__ if hasattr(ops, name)]
    return {name: arms.Arm(name, "jax", DTYPES) for name in names}


def figures(arm: str, point: str, check: bool) -> arms.Figures:
    """How many cases pass, and the first line of every failure. A check runs the interpreted law."""
    tests, end = ("test_kernels", f"-{point}-interpret_gpu]") if check else ("test_compiled_kernels", f"-{point}]")
    listed = pytest(check, f"tests/laws/{tests}.py", "--collect-only")
    wanted = [line for line in listed.splitlines() if f"[{arm}-" in line and line.endswith(end)]
    if not wanted:
        raise RuntimeError(f"{tests} lists no case of {arm} in {point}: {listed[-100:]}")
    workers = ["-n", "4"] if importlib.util.find_spec("xdist") and not check else []
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        pytest(check, *wanted, *workers, f"--junitxml={report}")
        return counted(report.read_text())


def pytest(check: bool, *arguments: str) -> str:
    """What a test run prints. Its workers share the device's memory, and it takes the device rather than the simulated ones that the tests default to."""
    there = {} if check else {"JAX_PLATFORMS": "cuda,cpu", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], capture_output=True, text=True, env=os.environ | there).stdout


def counted(report: str) -> arms.Figures:
    """What a JUnit report says: the number of passed cases, and failures as "case: first line"."""
    passed, failed = 0, []
    for case in ElementTree.fromstring(report).iter("testcase"):
        found = [child for child in case if child.tag in ("failure", "error", "skipped")]
        passed += not found
        failed += [f"{case.get('name')}: {(child.get('message') or '').strip().splitlines()[0][:160]}" for child in found]
    return {"passed": passed, "failed": failed}


def table(results: arms.Figures) -> str:
    """Passed of all cases by kernel and dtype, and the failures."""
    known = sides()
    lines = [arms.heading(results), "", f"| cases that pass | {' | '.join(DTYPES)} |", "|---" * (len(DTYPES) + 1) + "|"]
    for name in known:
        cells = [arms.cell(results, name, dtype, lambda f: f"{f['passed']} of {f['passed'] + len(f['failed'])}") for dtype in DTYPES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    failures = [failure for points in results["arms"].values() for found in points.values() for failure in found.get("failed", [])]
    return "\n".join([*lines, "", *(f"- {failure}" for failure in failures), *arms.reasons(results, known), ""])


if __name__ == "__main__":
    arms.main(Path(__file__).parent, "experiments.speed.compiled_kernels.run", __doc__, sides, figures, table)
