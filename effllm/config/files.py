"""Config files and run directories."""

import hashlib
import json
import re
import runpy
import traceback
from pathlib import Path
from typing import Any

from effllm.config import names, serial, tree
from effllm.config.experiment import CHANGEABLE, Experiment, validate
from effllm.config.override import override


def load_config(path: str, overrides: tuple[str, ...] = ()) -> Experiment:
    """The experiment that the `config()` of a Python file returns, with `path=value` overrides, validated."""
    if not Path(path).is_file():
        here = sorted(map(str, Path("configs").glob("*.py")))
        raise ValueError(f"there is no config file {path}{tree.nearest(path, here) if here else ''}")
    try:
        module = runpy.run_path(path)
        if "config" not in module:
            raise ValueError(f"{path} has no function config() -> Experiment")
        experiment = module["config"]()
    except (TypeError, NameError, AttributeError, ImportError, SyntaxError) as error:
        raise ValueError(f"{path}:{_line(error, path)}: {error}{_hint(error)}") from error
    if not isinstance(experiment, Experiment):
        raise ValueError(f"{path}: config() returned {type(experiment).__name__}, not an Experiment")
    tree.check(experiment)
    for text in overrides:
        experiment = override(experiment, text)
    return validate(experiment)


def _line(error: BaseException, path: str) -> int:
    if isinstance(error, SyntaxError):
        return error.lineno or 0
    return next((f.lineno for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == path), 0)


def _hint(error: BaseException) -> str:
    known = names.classes()
    if field := re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)):
        cls, name = field.groups()
        return tree.nearest(name, [f.name for f in tree.arguments(known[cls])]) if cls in known else ""
    if name := re.search(r"name '(\w+)' is not defined|cannot import name '(\w+)'", str(error)):
        return tree.nearest(name.group(1) or name.group(2), known)
    return ""


def run_directory(config: str, overrides: tuple[str, ...]) -> Path:
    """runs/<config's name>, with the overrides behind it; long or awkward ones by a digest."""
    name = ",".join([Path(config).stem, *sorted(overrides)])
    plain = re.sub(r"[^\w.,=+-]", "_", name)
    if plain != name or len(plain) > 120:
        plain = f"{plain[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return Path("runs") / plain


def changeable(path: str) -> bool:
    """Whether the field at `path` may change between one start of a run and the next."""
    return path.endswith(".implementation") or any(path == c or path.startswith(f"{c}.") for c in CHANGEABLE)


def write_config(directory: Path, experiment: Experiment, write: bool = True) -> None:
    """Save the exact tree as config.json in a run directory, or only check it without `write`.

    Raises ValueError naming what differs if another experiment made the directory, or if it holds something else.
    """
    found = {p.name for p in directory.iterdir()} if directory.is_dir() else set()
    if found - {".lock", "config.tmp"} and "config.json" not in found:  # a start may be killed while it writes config.json
        raise ValueError(f"{directory} holds files but no config.json: it is not a run directory; use another --run-dir")
    file = directory / "config.json"
    new = serial.to_json(experiment)
    if file.exists():
        found = {path: (b, a) for path, b, a in tree.differences(_read_json(file), new)}
        fixed = [p for p in found if not changeable(p)]
        if fixed:
            what = "; ".join(f"{p} was {_short(found[p][0])}, is now {_short(found[p][1])}" for p in fixed)
            raise ValueError(f"{directory} was made by another config: {what}; use another --run-dir")
        write = write and bool(found)
    if not write:
        return
    directory.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".tmp")
    beside.write_text(json.dumps(new, indent=1) + "\n")
    beside.replace(file)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return value.get("class", value.get("function", "?")).rpartition(".")[2]
    return str(value)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error})") from error


def read_config(directory: str | Path, config: str | None = None) -> Experiment:
    """The experiment of a run directory; `config` is the file that made it, where its classes are the user's own."""
    file = Path(directory) / "config.json"
    if not file.is_file():
        raise ValueError(f"{directory} is not a run directory: it has no config.json")
    experiment = serial.from_json(_read_json(file), {} if config is None else serial.named(load_config(config)))
    if not isinstance(experiment, Experiment):
        raise ValueError(f"{file} holds {type(experiment).__name__}, not an Experiment")
    return validate(experiment)
