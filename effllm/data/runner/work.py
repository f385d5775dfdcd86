"""A run over shards: planned once, continued where it stopped, described by a manifest when it is whole."""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effllm.data.runner.read import InputFile, too_many
from effllm.data.runner.write import digest_of, write_json

MANIFEST, WORK = "manifest.json", ".work"


class Work:
    """The state of a run under OUT/.work: the plan, and of every stage a marker for each finished task.

    A task is done when its marker is there, and its marker is written after all that it writes. So a run that is killed at any moment and
    started again with the same command repeats only the tasks that were under way.
    """

    def __init__(self, out: Path, plan: dict[str, Any], files: Sequence[InputFile], workers: int = 1, progress: bool = False):
        self.out, self.directory, self.plan, self.files, self.workers, self.progress = out, out / WORK, plan, files, workers, progress
        self.resumed = 0

    def map(self, stage: str, function: Callable[..., dict], tasks: Sequence[tuple], *, skip: int = 0) -> list[dict]:
        """[function(*task) for task in tasks], each result JSON, computed in worker processes and only once over all runs.

        Results may have "skipped", a list of messages; more than `skip` of them in all raise ValueError. Raises what a task raises,
        ValueError naming an input file that changed meanwhile (stages count documents, and would take one for another), and OSError where
        a worker was killed.
        """
        folder = self.directory / stage
        folder.mkdir(exist_ok=True)
        marker = [folder / f"{i:06d}.json" for i in range(len(tasks))]
        done = {i: json.loads(path.read_bytes()) for i, path in enumerate(marker) if path.exists()}
        self.resumed += len(done)
        self._check(done, skip)
        with self._bar(stage, len(tasks), len(done)) as step:
            try:
                for i, result in self._results(function, {i: task for i, task in enumerate(tasks) if i not in done}):
                    done[i] = result
                    self._check(done, skip)
                    write_json(marker[i], result)
                    step()
            except Exception:
                self._check_input()
                raise
        self._check_input()
        return [done[i] for i in range(len(tasks))]

    def finish(self, results: Sequence[dict], **more: Any) -> dict:
        """Writes the manifest from the results of the last stage ("in", "dropped", "skipped", "part", "documents") and removes .work; returns the manifest.

        Raises RuntimeError unless in = out + dropped by reason.
        """
        dropped: Counter = Counter()
        for result in results:
            dropped.update(result["dropped"])
        skipped = [message for result in results for message in result["skipped"]]
        if skipped:
            dropped["unreadable"] = len(skipped)
        parts = {r["part"]: {"documents": r["documents"], "files": r["files"], **digest_of(self.out / r["part"])} for r in results}
        counts = {"in": sum(r["in"] for r in results) + len(skipped), "out": sum(r["documents"] for r in results), "dropped": dict(sorted(dropped.items()))}
        if counts["in"] != counts["out"] + dropped.total():
            raise RuntimeError(f"{counts['in']} documents came in, but {counts['out']} went out and {dropped.total()} were dropped")
        manifest = counts | more | {"skipped": skipped[:100], "plan": self.plan, "parts": parts}
        write_json(self.out / MANIFEST, manifest)
        finished = self.directory.rename(self.out / f"{WORK}-finished")
        shutil.rmtree(finished)
        return manifest

    def _check(self, done: dict[int, dict], skip: int) -> None:
        skipped = [message for i in sorted(done) for message in done[i].get("skipped", ())]
        if len(skipped) > skip:
            raise ValueError(too_many(skip, skipped[-1]))

    def _check_input(self) -> None:
        for file, planned in zip(self.files, self.plan["input"]):
            if _described(file) != planned:
                raise ValueError(f"{file.path} changed while it was read: remove {self.out}, and give the command again when the input rests")

    def _results(self, function: Callable[..., dict], tasks: dict[int, tuple]) -> Iterator[tuple[int, dict]]:
        if self.workers <= 1 or len(tasks) <= 1:
            yield from ((i, function(*task)) for i, task in tasks.items())
            return
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(min(self.workers, len(tasks)), context) as pool:
            number = {pool.submit(function, *task): i for i, task in tasks.items()}
            try:
                for future in concurrent.futures.as_completed(number):
                    yield number[future], future.result()
            except concurrent.futures.process.BrokenProcessPool as error:
                raise OSError(f"a worker was killed (out of memory?): the same command continues {self.out}; try fewer --workers") from error
            finally:
                pool.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def _bar(self, stage: str, total: int, done: int) -> Iterator[Callable[[], Any]]:
        from tqdm import tqdm

        with tqdm(total=total, initial=done, desc=stage, unit="shard", disable=not self.progress, dynamic_ncols=True) as bar:
            yield bar.update


@contextlib.contextmanager
def work(
    out: str | Path, command: str, source: str, files: Sequence[InputFile], options: dict[str, Any], *, workers: int = 1, progress: bool = False,
) -> Iterator[Work]:
    """The Work of `command` on the `files` of `source` in the folder `out`, new or continued.

    A new run needs a folder that is absent or empty. Raises ValueError where `out` holds something else: a finished run, an unfinished one
    of other input or options, one that another process is at, or foreign files; or where it lies inside `source`.
    """
    out = Path(out)
    if Path(source).is_dir() and out.resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(f"{out} lies inside {source}, and would be read as a part of it: give an output folder elsewhere")
    plan = {"command": command, "options": describe(options), "input": [_described(file) for file in files]}
    plan = json.loads(json.dumps(plan))
    folder = out / WORK
    if out.exists() and not folder.exists():
        if not out.is_dir() or any(out.iterdir()):
            finished = " holds a finished run" if (out / MANIFEST).exists() else ""
            raise ValueError(f"{out} exists{' and' + finished if finished else ''}: give another output folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"another process is at work in {out}: wait for it, or give another output folder") from error
        saved = folder / "plan.json"
        if saved.exists():
            before = json.loads(saved.read_bytes())
            if changed := [name for name in plan if before.get(name) != plan[name]]:
                raise ValueError(f"{out} holds an unfinished run with another {' and '.join(changed)}: give the same command to continue it, or remove the folder")
        write_json(saved, plan)
        for left in [*out.rglob(".*.tmp-*")]:
            left.unlink()
        yield Work(out, plan, files, workers, progress)


def describe(value: Any) -> Any:
    """A setting as plain values that are the same in every process: dataclasses by class, fields and stamp(), functions by name, arrays by digest."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {"class": type(value).__qualname__} | {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        outside = value.stamp() if hasattr(value, "stamp") else ""
        return fields | ({"stamp": outside} if outside else {})
    if isinstance(value, (tuple, list)):
        return [describe(item) for item in value]
    if isinstance(value, dict):
        return {str(name): describe(item) for name, item in value.items()}
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def _described(file: InputFile) -> list:
    """Name, size and time of change of a file as it is now."""
    path = Path(file.path)
    now = path.stat() if path.exists() else None
    return [file.name, now.st_size if now else file.size, now.st_mtime_ns if now else 0]
