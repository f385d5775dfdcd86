"""What a corpus consists of: its files, in groups that a worker takes at once."""

import glob
import os
from pathlib import Path

from effllm.data.files import _fixed_prefix, _kind, _shown
from effllm.data.runner.read import LINES, PLAIN, RECORDS, TABLES, TFDS_SCHEME, InputFile

KINDS = (*PLAIN, *LINES, *TABLES, *RECORDS)
Shard = tuple[InputFile, ...]


def input_files(source: str) -> list[InputFile]:
    """The files of `source`, a file, a folder (searched recursively), a glob or "tfds:name/split", sorted by name.

    Folders are searched for .txt, .md and .jsonl (each also .gz or .zst), .parquet and .array_record, hidden files and folders left out. Raises FileNotFoundError
    where nothing is, and ValueError for a TFDS name without a split.
    """
    if source.startswith(TFDS_SCHEME):
        if "/" not in source:
            raise ValueError(f"{source} names no split: write tfds:name/split, such as tfds:lm1b/train")
        return [InputFile(source.removeprefix(TFDS_SCHEME), source, 0)]
    path = Path(source).expanduser()
    if path.is_dir():
        root, found = path, [p for p in _shown(path) if _kind(p) in KINDS]
    elif path.exists():
        root, found = path.parent, [path]
    elif glob.has_magic(source):
        root, found = _fixed_prefix(path), [Path(p) for p in glob.glob(str(path), recursive=True) if os.path.isfile(p)]
    else:
        raise FileNotFoundError(f"{source} does not exist: give a file, a folder, a glob or tfds:name/split")
    if not found:
        raise FileNotFoundError(f"{source} holds no text ({', '.join(KINDS)}; .gz and .zst of the first three)")
    return sorted((InputFile(p.relative_to(root).as_posix(), str(p), p.stat().st_size) for p in found), key=lambda file: file.name)


def shards(files: list[InputFile], size: int) -> list[Shard]:
    """The files in order, in groups of at least `size` bytes on disk (the last may be smaller); a file is never cut."""
    groups, held = [[]], 0
    for file in files:
        if held >= size:
            groups.append([])
            held = 0
        groups[-1].append(file)
        held += file.size
    return [tuple(group) for group in groups if group]
