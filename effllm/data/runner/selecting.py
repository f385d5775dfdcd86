"""Selection of a share of a corpus on disk: count, score, choose, write."""

import json
from pathlib import Path

import numpy as np

from effllm.data.runner.passes import batches, write_kept
from effllm.data.runner.read import Reading, Skipped
from effllm.data.runner.shards import Shard, input_files, shards
from effllm.data.runner.shares import Choice
from effllm.data.runner.work import work
from effllm.data.runner.write import write_array, write_json

EXAMPLES = 5


def select_corpus(
    source: str, out: str | Path, method: Choice, *, reading: Reading = Reading(), form: str = "jsonl.zst", workers: int = 1, shard_bytes: int = 64 << 20,
    progress: bool = False, command: str = "select",
) -> dict:
    """Writes the documents that `method` chooses and returns the manifest (also out/manifest.json); scores are in out/scores/part-….npy.

    Memory: a batch of documents a worker, and 9 bytes a document for scores and choice (of vectors, 4 bytes a number). Raises what work() and records() raise.
    """
    files = input_files(source)
    groups = shards(files, shard_bytes)
    options = {"method": method, "reading": reading, "form": form, "shard_bytes": shard_bytes}
    with work(out, command, source, files, options, workers=workers, progress=progress) as run:
        base, scores = run.directory, run.out / "scores"
        for folder in (base / "counts", scores, run.out / "dropped"):
            folder.mkdir(exist_ok=True)
        run.map("count", count, [(i, group, method, reading, str(base)) for i, group in enumerate(groups)], skip=reading.skip)
        found = [np.load(path) for path in sorted((base / "counts").glob("*.npy"))]
        total = sum(found[1:], found[0]) if found else None
        run.map("score", score, [(i, group, method, reading, total, str(scores)) for i, group in enumerate(groups)], skip=reading.skip)
        parts = [np.load(scores / f"part-{i:05d}.npy") for i in range(len(groups))]
        first = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        if not first[-1]:
            raise ValueError(f"{source} holds no readable document: there is nothing to choose from")
        keep_d = method.choose(np.concatenate([part for part in parts if len(part)]))
        left_out = np.flatnonzero(~keep_d)[:EXAMPLES]
        tasks = [
            (i, group, reading, str(run.out), f"part-{i:05d}.{form}", keep_d[a:b], method.reason,
             tuple((int(d - a), None, None) for d in left_out if a <= d < b))
            for i, (group, a, b) in enumerate(zip(groups, first, first[1:]))
        ]  # fmt: skip
        results = run.map("write", write_kept, tasks, skip=reading.skip)
        _examples(run.out, results, method.reason)
        return run.finish(results)


def count(number: int, shard: Shard, method: Choice, reading: Reading, base: str) -> dict:
    """Writes counts/number.npy, where the method counts."""
    skipped, total = Skipped(reading), None
    for group in batches(shard, reading, skipped):
        found = method.count(record.text for record in group)
        if found is None:
            return {"skipped": []}
        total = found if total is None else total + found
    if total is not None:
        write_array(Path(base, "counts", f"{number:05d}.npy"), total)
    return {"skipped": skipped.messages}


def score(number: int, shard: Shard, method: Choice, reading: Reading, total: np.ndarray | None, folder: str) -> dict:
    """Writes part-number.npy, the score of every document of the shard."""
    skipped, function, found = Skipped(reading), method.scorer(total), []
    for group in batches(shard, reading, skipped):
        found += [function(record.text, record.rest) for record in group]
    write_array(Path(folder, f"part-{number:05d}.npy"), np.array(found))
    return {"skipped": skipped.messages}


def _examples(out: Path, results: list[dict], reason: str) -> None:
    """Rewrites the examples of dropped documents in the form that the report reads."""
    for result in results:
        path = out / "dropped" / f"{result['part'].partition('.')[0]}.json"
        told = json.loads(path.read_bytes())
        write_json(path, [{"id": entry["id"], "text": entry["text"], "reason": reason} for entry in told])
