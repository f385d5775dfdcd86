"""Checkpoints: Orbax behind a thin module, with a digest of every file, checked before anything is restored.

Orbax restores a flipped bit in incompressible weights without a word. Here each step's directory carries the SHA-256 of its files, written
before Orbax renames the directory into place: a step is there whole, with its digests, or not at all.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

DIGESTS = "digests.json"
# Orbax writes these two after the digests; they hold times, no weights.
LATE = {"_CHECKPOINT_METADATA", "commit_success.txt"}


def _files(directory: Path) -> list[Path]:
    names = (p.relative_to(directory) for p in sorted(directory.rglob("*")) if p.is_file())
    return [p for p in names if str(p) not in LATE | {DIGESTS}]


def _sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_digests(directory: Path) -> None:
    """Write the SHA-256 of every file below `directory` into its digests.json."""
    names = _files(directory)
    with ThreadPoolExecutor() as pool:
        digests = dict(zip(map(str, names), pool.map(_sha256, [directory / n for n in names]), strict=True))
    with open(directory / DIGESTS, "w") as f:
        json.dump(digests, f, indent=1)
        f.flush()
        os.fsync(f.fileno())


def damage(directory: Path) -> str | None:
    """What is wrong with a step's files, as text that names the first bad one; None when all are as they were written."""
    try:
        digests = json.loads((directory / DIGESTS).read_bytes())
    except (OSError, ValueError):
        return f"{DIGESTS} is missing or unreadable"
    for name in digests:
        if not (directory / name).is_file():
            return f"{name} is missing"
    with ThreadPoolExecutor() as pool:
        for name, digest in zip(digests, pool.map(_sha256, [directory / n for n in digests]), strict=True):
            if digest != digests[name]:
                return f"{name} does not have the bytes that were written"
    return None


def last_saved(directory: Path) -> int | None:
    """The last step that has a checkpoint below `directory`, damaged or not; None where there is none. It only looks."""
    return max((int(p.name) for p in directory.glob("*") if p.name.isdigit()), default=None)


class Checkpoints:
    """The checkpoints of one run below `directory`, the newest `keep` of them. Saving is asynchronous.

    Opening removes what a killed save left behind; `read_only` leaves everything as it is, for a run that another process may be training.
    """

    def __init__(self, directory: Path, keep: int = 3, read_only: bool = False):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)
        self.directory = Path(directory).absolute()
        self.ocp = ocp
        self.manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else keep,
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._digest),
            ),
        )
        self.saving = None

    def _digest(self) -> None:
        if jax.process_index() == 0:
            (written,) = self.directory.glob(f"{self.saving}.orbax-checkpoint-tmp*")
            write_digests(written)

    def steps(self) -> list[int]:
        """Steps that have a whole checkpoint, ascending."""
        return sorted(self.manager.all_steps())

    def save(self, step: int, items: dict[str, Any], extra: dict[str, Any]) -> None:
        """Begin to save trees of arrays by name (`items`) and JSON (`extra`) as `step`; first waits for the save before.

        Raises OSError, naming the newest good step, if that save failed.
        """
        self.wait()
        self.saving = step
        arrays = {name: self.ocp.args.StandardSave(tree) for name, tree in items.items()}
        self._guarded(lambda: self.manager.save(step, args=self.ocp.args.Composite(**arrays, extra=self.ocp.args.JsonSave(extra)), force=True))

    def wait(self) -> None:
        """Return when nothing is being written. Raises OSError, naming the newest good step, if the last save failed."""
        self._guarded(self.manager.wait_until_finished)

    def _guarded(self, write: Callable[[], Any]) -> None:
        try:
            write()
            self.manager.check_for_errors()
        except Exception as error:
            good = self.steps()
            survives = f"the checkpoint of step {good[-1]} is whole" if good else "no checkpoint was written before it"
            raise OSError(f"could not save step {self.saving} below {self.directory} ({_first_line(error)}); {survives}") from error

    def restore(self, target: dict[str, Any], warn: Callable[[str], None], put_aside: bool = False) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """(step, items, extra) of the newest undamaged checkpoint, or None where there is none at all.

        `target` names the items wanted and gives their shapes, dtypes and shardings. A damaged step is named through `warn` and the one before
        it is tried; with `put_aside` it moves to `damaged/` beside, so that its step can be saved again. ValueError if every one is damaged.
        """
        bad = []
        for step in reversed(self.steps()):
            problem = damage(self.directory / str(step))
            if problem is None:
                return step, *self._read(step, target)
            bad.append(f"checkpoint {self.directory / str(step)} is damaged: {problem}")
            warn(bad[-1])
            if put_aside:
                self._put_aside(step)
        if bad:
            raise ValueError(f"{bad[0]}, and no earlier checkpoint is whole; start again in another run directory")
        return None

    def _read(self, step: int, target: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        arrays = {name: self.ocp.args.StandardRestore(tree) for name, tree in target.items()}
        restored = self.manager.restore(step, args=self.ocp.args.Composite(**arrays, extra=self.ocp.args.JsonRestore()))
        # Restored buffers cannot all be donated; a copy made by XLA can.
        shardings = jax.tree.map(lambda t: t.sharding, target)
        copy = jax.jit(lambda tree: jax.tree.map(lambda a: a.copy(), tree), out_shardings=shardings)
        return copy({name: restored[name] for name in target}), restored.extra

    def _put_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            aside = self.directory.parent / "damaged" / str(step)
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            os.rename(self.directory / str(step), aside)
        self.manager.reload()

    def close(self) -> None:
        self.manager.close()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
