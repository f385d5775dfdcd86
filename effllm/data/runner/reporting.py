"""The page of a finished run."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from effllm.data.dedup.report import Example, render
from effllm.data.runner.work import MANIFEST

_A_REASON = 5


def render_run(folder: str | Path) -> str:
    """The HTML page of a run of filter, dedup or select: counts by reason, clusters, and examples of what was dropped.

    Raises ValueError for a folder that holds no finished run.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        counts = {"kept": manifest["out"]} | manifest["dropped"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds no finished run: {MANIFEST} is missing or damaged; run effllm data filter, dedup or select first") from error
    title = f"effllm data {manifest['plan']['command']}: {manifest['in']:,} documents in, {manifest['out']:,} out"
    return render(title, counts, {int(size): count for size, count in manifest.get("clusters", {}).items()}, list(_examples(folder)))


def _examples(folder: Path) -> Iterator[Example]:
    shown: Counter = Counter()
    for path in sorted((folder / "dropped").glob("*.json")):
        for example in json.loads(path.read_bytes()):
            shown[example["reason"]] += 1
            if shown[example["reason"]] <= _A_REASON:
                yield Example(**example)
