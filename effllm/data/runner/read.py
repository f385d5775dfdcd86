"""Files of a corpus to records, bad ones named, counted, and passed over only where that is allowed."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effllm.data.files import _chunks, _kind, _lines, why_not_json

LINES, PLAIN, TABLES, RECORDS, TFDS_SCHEME = (".jsonl",), (".txt", ".md"), (".parquet",), (".array_record",), "tfds:"
MAX_BYTES = 64 << 20


@dataclasses.dataclass
class Record:
    """A document on its way: `id`, `text`, and the fields that it came with and keeps."""

    id: str
    text: str
    rest: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class InputFile:
    """A file (or TFDS split, "tfds:name/split") of a corpus; `name` is its path relative to the corpus."""

    name: str
    path: str
    size: int


@dataclasses.dataclass(frozen=True)
class Reading:
    """How records are read: `field` holds the text, `id_field` the id where there is one; up to `skip` bad records are passed over.

    max_bytes: longer lines and files are bad records, so that one of them cannot fill the memory.
    """

    field: str = "text"
    id_field: str = "id"
    skip: int = 0
    max_bytes: int = MAX_BYTES


class Skipped:
    """The bad records of a reading: raises at the first beyond the allowance, keeps what the others were."""

    def __init__(self, reading: Reading):
        self.allowed, self.messages = reading.skip, []

    def add(self, message: str) -> None:
        """Raises ValueError if this is one too many."""
        self.messages.append(message)
        if len(self.messages) > self.allowed:
            raise ValueError(message if not self.allowed else too_many(self.allowed, message))


def too_many(allowed: int, message: str) -> str:
    """The complaint about bad records beyond the allowance."""
    return f"more than {allowed} bad record(s); the last: {message}"


def records(file: InputFile, reading: Reading, skipped: Skipped) -> Iterator[Record]:
    """The records of a file in order. Ids are the record's own `id_field`, else the file's name, with ":line" where a file holds many."""
    if file.path.startswith(TFDS_SCHEME):
        yield from _tfds(file, reading, skipped)
        return
    kind = _kind(Path(file.path))
    read = {".jsonl": _json_lines, ".parquet": _parquet, ".array_record": _array_record}.get(kind, _plain)
    try:
        yield from read(file, reading, skipped)
    except (EOFError, OSError, UnreadableError) as error:
        skipped.add(str(error))


class UnreadableError(ValueError):
    """The rest of a file cannot be read."""


def _plain(file: InputFile, reading: Reading, skipped: Skipped) -> Iterator[Record]:
    parts, held = [], 0
    for chunk in _readable(file):
        held += len(chunk)
        if held > reading.max_bytes:
            skipped.add(f"{file.path} is longer than {reading.max_bytes:,} bytes: split it, or raise --max-bytes")
            return
        parts.append(chunk)
    text = _text(b"".join(parts), file.path, skipped)
    if text is not None:
        yield Record(file.name, text)


def _json_lines(file: InputFile, reading: Reading, skipped: Skipped) -> Iterator[Record]:
    number = 0
    for number, line in enumerate(_lines(_readable(file), reading.max_bytes), 1):
        where = f"{file.path}:{number}"
        if line is None:
            skipped.add(f"{where} is longer than {reading.max_bytes:,} bytes: split it, or raise --max-bytes")
        elif (record := _parsed(line, where, f"{file.name}:{number}", reading, skipped)) is not None:
            yield record
    if not number:
        skipped.add(f"{file.path} is empty: remove it, or write records into it")


def _array_record(file: InputFile, reading: Reading, skipped: Skipped) -> Iterator[Record]:
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(file.path)
        if not reader.num_records():
            raise UnreadableError(f"{file.path} holds no record, or is damaged: write it again")
        lines = (line for at in range(0, reader.num_records(), 256) for line in reader.read(range(at, min(at + 256, reader.num_records()))))
        for number, line in enumerate(lines, 1):
            if (record := _parsed(line, f"{file.path}:{number}", f"{file.name}:{number}", reading, skipped)) is not None:
                yield record
    except (RuntimeError, IndexError) as error:  # what array_record raises for damage
        raise UnreadableError(f"{file.path} is damaged ({' '.join(str(error).split())}): write it again") from error


def _parquet(file: InputFile, reading: Reading, skipped: Skipped) -> Iterator[Record]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f'{file.path} is parquet, which needs pyarrow: pip install "effllm[parquet]"') from error
    try:
        table = pyarrow.parquet.ParquetFile(file.path)
        if reading.field not in table.schema_arrow.names:
            raise UnreadableError(f"{file.path} has no column {reading.field!r}; it has {', '.join(table.schema_arrow.names)}: set --field")
        number = 0
        for batch in table.iter_batches(256):
            for row in batch.to_pylist():
                number += 1
                if (record := _record(row, f"{file.path}:{number}", f"{file.name}:{number}", reading, skipped)) is not None:
                    yield record
    except pyarrow.ArrowException as error:
        raise UnreadableError(f"{file.path} is broken parquet ({' '.join(str(error).split())}): write it again") from error


def _tfds(file: InputFile, reading: Reading, skipped: Skipped) -> Iterator[Record]:
    from effllm.data.source import TFDS

    name, _, split = file.path.removeprefix(TFDS_SCHEME).rpartition("/")
    for record, data in TFDS(name, split, reading.field).texts():
        text = _text(data, f"{TFDS_SCHEME}{record} field {reading.field!r}", skipped)
        if text is not None:
            yield Record(record, text)


def _readable(file: InputFile) -> Iterator[bytes]:
    try:
        yield from _chunks(Path(file.path))
    except ValueError as error:
        raise UnreadableError(str(error)) from error


def _parsed(line: bytes, where: str, name: str, reading: Reading, skipped: Skipped) -> Record | None:
    text = _text(line, where, skipped)
    if text is None:
        return None
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        skipped.add(f"{where} is not JSON ({why_not_json(error)}): every record is one object")
        return None
    return _record(row, where, name, reading, skipped)


def _record(row: Any, where: str, name: str, reading: Reading, skipped: Skipped) -> Record | None:
    text = row.pop(reading.field, None) if isinstance(row, dict) else None
    if not isinstance(text, str):
        skipped.add(f"{where} has no string field {reading.field!r}: set --field to the one that holds the text")
        return None
    try:
        text = _text(text.encode(), f"{where} field {reading.field!r}", skipped)
    except UnicodeEncodeError:
        skipped.add(f"{where} field {reading.field!r} holds half a surrogate pair, which is not text")
        return None
    own = row.pop(reading.id_field, None)
    return None if text is None else Record(name if own is None else str(own), text, row)


def _text(data: bytes, where: str, skipped: Skipped) -> str | None:
    if not data.strip():
        skipped.add(f"{where} is empty: remove it, or write text into it")
    elif b"\0" in data:
        skipped.add(f"{where} is binary (it holds a NUL byte): only text can be trained on")
    else:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            skipped.add(f"{where} is not UTF-8 (byte {error.start}): convert it, for example with iconv")
    return None
