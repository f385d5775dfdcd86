"""Text files as documents: plain text, Markdown and JSON lines, plain or compressed."""

import dataclasses
import glob
import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from effllm.data.source import Document, Source

_KINDS = (".txt", ".md", ".jsonl")
_PACKINGS = (".gz", ".zst")
_CHUNK, _SLICE = 1 << 20, 1 << 12
_UNDECODED = re.compile(r"[\udc80-\udcff]")


@dataclasses.dataclass(frozen=True)
class TextFiles(Source):
    """Text under `path`: a file, a folder or a glob (`**` descends).

    A folder is searched recursively for .txt, .md and .jsonl files, each also as .gz or .zst. Every line of a .jsonl file is a
    document (its `field`), every other file is one; a file named outright or by a glob may have any other suffix and is then
    plain text. Files and folders in it whose name begins with a dot (.git, .ipynb_checkpoints) are passed over. Ids are paths relative to
    the folder, with ":line" in .jsonl files.

    Raises FileNotFoundError if nothing matches, and ValueError naming the file (and line) that is empty, binary, not UTF-8, of
    broken compression, not JSON with a non-empty string in `field`, or of a name that is not UTF-8.
    """

    path: str
    field: str = "text"

    def documents(self) -> Iterator[Document]:
        for name, path in self._files():
            if _kind(path) == ".jsonl":
                yield from self._json_lines(name, path)
            else:
                yield Document(name, _checked_text(b"".join(_chunks(path)), str(path)))

    def stamp(self) -> str:
        digest = hashlib.sha256(self.field.encode())
        for name, path in self._files():
            status = path.stat()
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        return digest.hexdigest()

    def _files(self) -> list[tuple[str, Path]]:
        path = Path(self.path).expanduser()
        if path.is_dir():
            root, found = path, [p for p in _shown(path) if _kind(p) in _KINDS]
        elif path.exists():
            root, found = path.parent, [path]
        elif glob.has_magic(str(path)):
            found = [Path(p) for p in glob.glob(str(path), recursive=True) if os.path.isfile(p)]
            root = _fixed_prefix(path)
        else:
            raise FileNotFoundError(f"{self.path} does not exist: give TextFiles a file, a folder or a glob")
        if not found:
            raise FileNotFoundError(f"{self.path} matches no text file ({', '.join(_KINDS)}, also {' or '.join(_PACKINGS)})")
        named = sorted((p.relative_to(root).as_posix(), p) for p in found)
        if strange := [name for name, _ in named if _UNDECODED.search(name)]:
            raise ValueError(f"{ascii(strange[0])} in {root}: the file's name is not UTF-8, and names are ids; rename it")
        return named

    def _json_lines(self, name: str, path: Path) -> Iterator[Document]:
        number = 0
        for number, line in enumerate(_lines(_chunks(path)), 1):
            where = f"{path}:{number}"
            checked = _checked_text(line, where)
            try:
                record = json.loads(checked)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where} is not JSON ({why_not_json(error)}): every line of a .jsonl file holds one object") from error
            text = record.get(self.field) if isinstance(record, dict) else None
            if not isinstance(text, str):
                raise ValueError(f"{where} has no string field {self.field!r}: set `field` to the one that holds the text")
            try:
                yield Document(f"{name}:{number}", _checked_text(text.encode(), f"{where} field {self.field!r}"))
            except UnicodeEncodeError as error:
                raise ValueError(f"{where} field {self.field!r} holds half a surrogate pair, which is not text") from error
        if not number:
            raise ValueError(f"{path} is empty: remove it, or write text into it")


def why_not_json(error: ValueError | RecursionError) -> str:
    """What json.loads() complained about, in a few words."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    return error.msg if isinstance(error, json.JSONDecodeError) else "a number has too many digits"


def _shown(folder: Path) -> Iterator[Path]:
    """The files under a folder but for hidden ones and those in hidden folders."""
    return (p for p in folder.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _PACKINGS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _fixed_prefix(pattern: Path) -> Path:
    parts = []
    for part in pattern.parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _checked_text(data: bytes, where: str) -> bytes:
    if not data.strip():
        raise ValueError(f"{where} is empty: remove it, or write text into it")
    if b"\0" in data:
        raise ValueError(f"{where} is binary (it holds a NUL byte): only text can be trained on")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 (byte {error.start}): convert it, for example with iconv") from error
    return data


def _lines(chunks: Iterator[bytes], limit: float = float("inf")) -> Iterator[bytes | None]:
    """Lines without their ends; None for one longer than `limit`, which is never held whole."""
    parts, held = [], 0
    for chunk in chunks:
        *complete, rest = chunk.split(b"\n")
        for line in complete:
            yield b"".join((*parts, line)) if held + len(line) <= limit else None
            parts, held = [], 0
        held += len(rest)
        if held > limit:
            parts = []
        elif rest:
            parts.append(rest)
    if held:
        yield b"".join(parts) if held <= limit else None


def _chunks(path: Path) -> Iterator[bytes]:
    suffix = path.suffix.lower()
    if suffix == ".zst":
        yield from _zstd_chunks(path)
        return
    try:
        with gzip.open(path) if suffix == ".gz" else path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is broken gzip ({error}): compress it again") from error


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    """What each few kilobytes of the file become: zstd can turn a megabyte into 32 gigabytes, and gives all of it at once."""
    import zstandard

    frame = zstandard.ZstdDecompressor().decompressobj()
    started = False
    try:
        with path.open("rb") as file:
            while data := file.read(_SLICE):
                while data:
                    if frame.eof:
                        frame = zstandard.ZstdDecompressor().decompressobj()
                    started = True
                    yield frame.decompress(data)
                    data = frame.unused_data if frame.eof else b""
    except zstandard.ZstdError as error:
        raise ValueError(f"{path} is broken zstd ({error}): compress it again") from error
    if started and not frame.eof:
        raise ValueError(f"{path} is broken zstd (the file ends inside a frame): compress it again")
