"""A prepared directory on disk: written beside its place, synced, described by a manifest, renamed; verified when opened."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MANIFEST = "manifest.json"


def cache_root(cache: str | None) -> Path:
    """The folder that holds prepared data: `cache`, else $EFFLLM_CACHE, else ~/.cache/effllm."""
    return Path(cache or os.environ.get("EFFLLM_CACHE") or "~/.cache/effllm").expanduser()


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the lock of `directory` among the processes of this host; the kernel frees it when the holder dies."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(directory.with_name(directory.name + ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def built(directory: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `directory` if the block succeeds and disappears if it fails. Needs locked().

    Raises OSError naming the folder and the remedy when the disk is full. What a killed process left is removed first.
    """
    for abandoned in directory.parent.glob(f"{directory.name}.tmp-*"):
        shutil.rmtree(abandoned)
    temporary = directory.with_name(f"{directory.name}.tmp-{os.getpid()}")
    temporary.mkdir()
    try:
        yield temporary
        _sync(temporary)
        os.rename(temporary, directory)
        _sync_path(directory.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(
                error.errno,
                f"{os.strerror(error.errno)} while preparing data under {directory.parent}: free some space, or point data.cache "
                "or $EFFLLM_CACHE elsewhere") from error
        raise


def describe_files(directory: Path) -> dict[str, dict]:
    """{relative path: {"bytes", "sha256"}} of every file under `directory`."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_sha256, paths))
    return {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests)
    }


def write_manifest(directory: Path, manifest: dict) -> None:
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def read_manifest(directory: Path, format_version: int) -> dict:
    """The manifest of a prepared directory, after every file has been compared with its digest.

    Raises ValueError naming the file that is missing, damaged or of another format, and the remedy.
    """
    remedy = f"delete {directory} and it will be prepared again"
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        files, version = manifest["files"], manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{directory / MANIFEST} is missing or damaged: {remedy}") from error
    if version != format_version:
        raise ValueError(f"{directory} has data format {version}, this version reads {format_version}: {remedy}")
    with ThreadPoolExecutor() as pool:
        intact = list(pool.map(lambda name: _intact(directory / name, files[name]), files))
    damaged = [name for name, good in zip(files, intact) if not good]
    if damaged:
        raise ValueError(f"{directory / damaged[0]} is damaged (it differs from the digest in {MANIFEST}): {remedy}")
    return manifest


def _intact(path: Path, expected: dict) -> bool:
    return path.is_file() and path.stat().st_size == expected["bytes"] and _sha256(path) == expected["sha256"]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(directory: Path) -> None:
    for folder, _, names in os.walk(directory):
        for name in names:
            _sync_path(Path(folder, name))
        _sync_path(Path(folder))


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
