"""metrics.jsonl: one JSON object a line, never torn, never doubled."""

import json
import math
import os
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file; a torn last line is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            break
        records.append(record)
    return records


class Lines:
    """An append-only file of JSON lines, each with a "step"."""

    def __init__(self, path: Path):
        self.path = path
        self.file = None

    def cut(self, step: int) -> None:
        """Drop what was logged after `step` (and a torn last line), so that a resumed run goes on from there; atomic."""
        kept = [r for r in read(self.path) if r["step"] <= step]
        beside = self.path.with_suffix(".tmp")
        with open(beside, "w") as f:
            f.writelines(json.dumps(r) + "\n" for r in kept)
            f.flush()
            os.fsync(f.fileno())
        os.replace(beside, self.path)

    def append(self, record: dict[str, Any]) -> None:
        """Write one line; a number that is not finite becomes null, which JSON has."""
        if self.file is None:
            self.file = open(self.path, "a")
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self.file.write(json.dumps(finite) + "\n")
        self.file.flush()

    def sync(self) -> None:
        """Wait until everything appended is on the disk."""
        if self.file is not None:
            os.fsync(self.file.fileno())

    def close(self) -> None:
        if self.file is not None:
            self.sync()
            self.file.close()
            self.file = None
