"""What a run directory holds, beside its config: who made it where, and what came of it."""

import datetime
import fcntl
import json
import math
import platform
import shlex
import sys
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click


def command_line() -> str:
    """The command that started this process, as one would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def hardware() -> str:
    """Devices and processor in words."""
    import jax

    devices = jax.devices()
    words = f"{len(devices)} × {devices[0].device_kind}"
    if devices[0].platform == "cpu":
        model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor())
        cores = len([line for line in _cpuinfo() if line.startswith("processor")])
        words += f" device{'s' if len(devices) > 1 else ''}: {model or 'unknown processor'}, {cores} cores"
    return words + (f", {jax.process_count()} processes" if jax.process_count() > 1 else "")


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def provenance() -> dict[str, Any]:
    """The command, the time, the versions and the hardware of this process."""
    packages = ("effllm", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")
    return {
        "command": command_line(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "hardware": hardware(),
    }


def finite(data: Any) -> Any:
    """`data` with None, which JSON has, for every number that is not finite."""
    if isinstance(data, dict):
        return {k: finite(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [finite(v) for v in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def write_json(file: Path, data: Any) -> None:
    """Write a JSON file at once; a number that is not finite becomes null."""
    beside = file.with_suffix(".tmp")
    beside.write_text(json.dumps(finite(data), indent=1) + "\n")
    beside.replace(file)


def read_json(file: Path) -> dict[str, Any]:
    """The object of a JSON file, {} where there is no file. Raises ValueError for one that is damaged."""
    if not file.exists():
        return {}
    remedy = "restore it" if file.name == "config.json" else "restore or remove it"
    try:
        data = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}): {remedy}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{file} is not a JSON object: {remedy}")
    return data


@contextmanager
def locked(directory: Path):
    """Hold a run directory for this process. Raises ValueError if another one holds it."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"another process is training in {directory}; wait for it, or use another --run-dir") from error
        yield


def warn(text: str) -> None:
    """A line on stderr."""
    click.echo(f"effllm: {text}", err=True)
