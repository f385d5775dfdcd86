"""Records to files that are whole or absent."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from effllm.data.runner.read import Record

FORMATS = ("jsonl.zst", "array_record")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `path` when the block succeeds: synced, then renamed. A failed block leaves nothing."""
    beside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def writer(path: Path, field: str, id_field: str) -> Iterator[Callable[[Record], None]]:
    """A function that appends a record to `path`: JSON lines under zstd, or JSON in array_record, by its suffix. The file appears at the end."""
    def line(record: Record) -> bytes:
        told = {id_field: record.id, field: record.text, **record.rest}
        try:
            return json.dumps(told, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:  # half a surrogate pair in an id or another field, which only an escape can write
            return json.dumps(told, default=str).encode()

    with whole(path) as beside:
        if path.name.endswith(".array_record"):
            from array_record.python.array_record_module import ArrayRecordWriter

            out = ArrayRecordWriter(str(beside), "group_size:1")
            try:
                yield lambda record: out.write(line(record))
            finally:
                out.close()
        else:
            import zstandard

            with beside.open("wb") as file, zstandard.ZstdCompressor().stream_writer(file) as out:
                yield lambda record: out.write(line(record) + b"\n")


def write_json(path: Path, value: object) -> None:
    """A JSON file at once."""
    with whole(path) as beside:
        beside.write_text(json.dumps(value, indent=1) + "\n")


def write_array(path: Path, array: np.ndarray) -> None:
    """A .npy at once."""
    with whole(path) as beside, beside.open("wb") as file:
        np.save(file, array)


def digest_of(path: Path) -> dict:
    """{"bytes", "sha256"} of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
