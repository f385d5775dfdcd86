"""Arms of a benchmark that a machine may lack what it takes for: each in a process of its own, each figure written as soon as it is there, and every arm that
does not run stands in results.json and in the table with its reason.

    python -m experiments.speed.arms     # what this machine has
"""

import argparse
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.speed import measure

Figures = dict[str, Any]  # of one point, or {"not_run": why}
PACKAGES = "effllm", "jax", "torch", "triton", "flash-linear-attention"
LONGEST = 300  # seconds from one answer of an arm to the next


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: what the table calls it, what it `needs` ("jax" or "torch" on a CUDA device, or "fla": flash-linear-attention too), and the
    points that it is measured at."""

    label: str
    needs: str
    points: tuple[str, ...]


def lacking(cuda: bool) -> dict[str, str | None]:
    """Why an arm that needs the one or the other cannot run in this Python, or None; without `cuda` a CPU will do."""
    found: dict[str, str | None] = {"jax": None, "torch": None}
    try:
        import jax

        if cuda and jax.default_backend() != "gpu":
            found["jax"] = f"JAX sees no CUDA device, only {jax.devices()[0].device_kind}"
    except Exception as error:  # libraries of CUDA that do not fit fail in more ways than one
        found["jax"] = f"JAX: {first_line(error)}"
    try:
        import torch

        if cuda and not torch.cuda.is_available():
            found["torch"] = "PyTorch sees no CUDA device"
    except Exception as error:
        found["torch"] = f"PyTorch: {first_line(error)}"
    try:
        import fla  # noqa: F401

        found["fla"] = found["torch"]
    except Exception as error:  # without a GPU its import fails in more ways than one
        found["fla"] = found["torch"] or f"flash-linear-attention: {first_line(error)}"
    return found


def probe(cuda: bool) -> Figures:
    """What this Python lacks, its device and its versions."""
    found = {"lacking": lacking(cuda), "device": None, "versions": measure.versions(*PACKAGES)}
    if found["lacking"]["jax"] is None:
        import jax

        found["device"] = jax.devices()[0].device_kind
    elif found["lacking"]["torch"] is None and cuda:
        import torch

        found["device"] = torch.cuda.get_device_name()
    return found


def first_line(error: Exception) -> str:
    """An exception in one line of at most 200 characters."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:200]


def per_call(call: Callable[[], Any], wait: Callable[[Any], Any], rounds: int = 5, least: float = 0.05) -> float:
    """Median over rounds of the seconds a call takes on a device that works off a queue: as many calls as fill `least` seconds are queued and waited for once."""
    for _ in range(2):
        wait(call())
    start = time.perf_counter()
    wait(call())
    count = min(50, 1 + int(least / (time.perf_counter() - start)))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(count):
            out = call()
        wait(out)
        times.append((time.perf_counter() - start) / count)
    return statistics.median(times)


def answer(points: Sequence[str], figures: Callable[[str], Figures]) -> None:
    """In an arm's process: a line of JSON for every point, of its figures or of what it failed by, which says nothing about the next."""
    for point in points:
        try:
            found = figures(point)
        except Exception as error:
            found = {"not_run": f"failed: {first_line(error)}"}
        print(json.dumps({"point": point, **found}), flush=True)


def asked(python: str, module: str, arguments: Sequence[str], points: Sequence[str]) -> Iterator[tuple[str, Figures]]:
    """(point, its answer) by `python -m module arguments --points …` as they come. A process that ends or hangs loses the point that it was at, and another goes
    on with the rest, unless two in a row gave no answer."""
    left, silent = list(points), 0
    while left:
        with tempfile.TemporaryFile("w+") as complaints:
            command = [python, "-m", module, *arguments, "--points", *left]
            there = {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".95"} | os.environ  # XLA's default leaves a quarter of the device unused
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True, start_new_session=True, env=there)
            silent, timer = silent + 1, _alarm(process)
            for line in process.stdout:
                if line.startswith('{"point"'):
                    timer.cancel()
                    figures, silent = json.loads(line), 0
                    left.remove(figures["point"])
                    yield figures.pop("point"), figures
                    timer = _alarm(process)
            process.wait()
            late = not timer.is_alive()
            timer.cancel()
            complaints.seek(0)
            last = (complaints.read().strip().splitlines() or [""])[-1]
        why = f"failed: no answer within {LONGEST} s" if late else f"failed: its process ended with {process.returncode}: {last}"[:300]
        lost = left if silent > 1 else left[:1]
        left = left[len(lost) :]
        yield from ((point, {"not_run": why}) for point in lost)


def _alarm(process: subprocess.Popen) -> threading.Timer:
    """Ends a process and all that it started after LONGEST seconds, unless it is cancelled."""
    timer = threading.Timer(LONGEST, lambda: os.killpg(process.pid, signal.SIGKILL))
    timer.start()
    return timer


def measured(figures: Figures | None) -> bool:
    """Whether a point has figures."""
    return figures is not None and "not_run" not in figures


def collect(directory: Path, module: str, arms: Mapping[str, Arm], table: Callable[[Figures], str], peers: str, check: bool, fresh: bool) -> None:
    """Measure every point of every arm that has none yet, and write results.json and the README after each; with `check` tiny, on any device, printing only.

    Figures of another device or other versions are kept: on a machine without a CUDA device nothing is written then, on another one it takes `fresh`.
    """
    file = directory / "results.json"
    pythons = {"jax": sys.executable, "torch": peers, "fla": peers}
    probes = {python: _probe(python, check) for python in set(pythons.values())}
    lacks = {need: probes[python]["lacking"][need] for need, python in pythons.items()}
    device = probes[sys.executable]["device"] or probes[peers]["device"]
    machine = {"device": device, "versions": probes[sys.executable]["versions"], "peers": probes[peers]["versions"]}
    before = json.loads(file.read_text()) if file.exists() and not (check or fresh) else {}
    if any(measured(figures) for points in before.get("arms", {}).values() for figures in points.values()) and {k: before[k] for k in machine} != machine:
        print(table(before))
        if all(lacks.values()):
            print(f"Not run here: {lacks['jax']}. The figures above are those of results.json.")
            return
        raise SystemExit(f"results.json holds figures of {before['device']} and its versions, this is {machine}: --fresh begins anew")
    results = {"date": datetime.date.today().isoformat(), **machine, "arms": before.get("arms", {})}
    for name, arm in arms.items():
        done = results["arms"].setdefault(name, {})
        left = sorted((point for point in arm.points if not measured(done.get(point))), key=done.__contains__)  # those that failed before come last
        answers: Iterable[tuple[str, Figures]] = ()
        if lacks[arm.needs]:
            print(f"{arm.label}: not run: {lacks[arm.needs]}", flush=True)
            done.update({point: {"not_run": lacks[arm.needs]} for point in left})
        elif left:
            answers = asked(pythons[arm.needs], module, ["--arm", name, *(["--check"] if check else [])], left)
        for point, found in answers:
            done[point] = found
            print(f"{arm.label}, {point}: {found}", flush=True)
            if not check:
                measure.save(directory, results, table(results))
    if not check:
        measure.save(directory, results, table(results))
    print(table(results))


def _probe(python: str, check: bool) -> Figures:
    done = subprocess.run([python, "-m", "experiments.speed.arms", *(["--check"] if check else [])], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{python} -m experiments.speed.arms failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main(directory: Path, module: str, doc: str | None, arms: Callable[[bool], Mapping[str, Arm]], figures: Callable[[str, str, bool], Figures], table: Callable) -> None:
    """The command of such a benchmark: arms(check) by name, figures(arm, point, check) in a process of its own, table(results) for the README."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="the Python that has PyTorch and flash-linear-attention")
    parser.add_argument("--check", action="store_true", help="tiny sizes on any device, Pallas interpreted: prints, writes nothing")
    parser.add_argument("--fresh", action="store_true", help="forget the figures of results.json")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--points", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        answer(options.points, lambda point: figures(options.arm, point, options.check))
    else:
        collect(directory, module, arms(options.check), table, options.peers, options.check, options.fresh)


def heading(results: Figures) -> str:
    """The table's first line: where and when."""
    versions = {**results["peers"], **{k: v for k, v in results["versions"].items() if v != "not installed"}}
    device = results["device"] or "No CUDA device"
    return f"{device}; {', '.join(f'{k} {v}' for k, v in versions.items())}; {results['date']}."


def cell(results: Figures, arm: str, point: str, words: Callable[[Figures], str]) -> str:
    """What the table says of one point: words(figures), "not run", or – for a point that the arm does not have."""
    figures = results["arms"].get(arm, {}).get(point)
    return "–" if figures is None else words(figures) if measured(figures) else "not run"


def reasons(results: Figures, arms: Mapping[str, Arm]) -> list[str]:
    """A line for every reason why arms did not run, with their points where it is not all of them."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, points in results["arms"].items():
        for point, figures in points.items():
            if not measured(figures):
                found.setdefault((name, figures["not_run"]), []).append(point)
    by_why: dict[str, list[str]] = {}
    for (name, why), points in found.items():
        label = arms[name].label if name in arms else name
        by_why.setdefault(why, []).append(label if len(points) == len(results["arms"][name]) else f"{label} ({', '.join(points)})")
    return [f"- Not run: {'; '.join(who)}: {why.rstrip('.')}." for why, who in by_why.items()]


if __name__ == "__main__":
    print(json.dumps(probe("--check" not in sys.argv)))
