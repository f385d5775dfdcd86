"""Filters over a corpus on disk."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from effllm.data.filters.base import Filter, judge_all
from effllm.data.runner.read import Reading, Skipped, records
from effllm.data.runner.shards import Shard, input_files, shards
from effllm.data.runner.work import work
from effllm.data.runner.write import write_json, writer

EXAMPLES = 5


def filter_corpus(
    source: str, out: str | Path, filters: Sequence[Filter], *, reading: Reading = Reading(), form: str = "jsonl.zst", workers: int = 1,
    shard_bytes: int = 64 << 20, progress: bool = False, command: str = "filter",
) -> dict:
    """Writes what passes `filters` to out/part-….form, with ids and other fields kept, and returns the manifest (also out/manifest.json).

    Memory: one document a worker. out/dropped/ holds a few dropped documents of every reason and shard, for `report`. Raises what work()
    and records() raise.
    """
    files = input_files(source)
    options = {"filters": tuple(filters), "reading": reading, "form": form, "shard_bytes": shard_bytes}
    with work(out, command, source, files, options, workers=workers, progress=progress) as run:
        (run.out / "dropped").mkdir(exist_ok=True)
        tasks = [(shard, tuple(filters), reading, str(run.out), f"part-{i:05d}.{form}") for i, shard in enumerate(shards(files, shard_bytes))]
        return run.finish(run.map(command, _shard, tasks, skip=reading.skip))


def _shard(shard: Shard, filters: tuple[Filter, ...], reading: Reading, out: str, part: str) -> dict:
    skipped, dropped, seen, kept, examples = Skipped(reading), Counter(), 0, 0, []
    with writer(Path(out, part), reading.field, reading.id_field) as write:
        for file in shard:
            for record in records(file, reading, skipped):
                seen += 1
                verdict, text = judge_all(record.text, filters)
                if verdict.keep:
                    kept += 1
                    record.text = text
                    write(record)
                else:
                    dropped[verdict.reason] += 1
                    if dropped[verdict.reason] <= EXAMPLES:
                        examples.append({"id": record.id, "text": record.text[:2000], "reason": verdict.reason})
    write_json(Path(out, "dropped", f"{part.partition('.')[0]}.json"), examples)
    return {"in": seen, "documents": kept, "dropped": dict(dropped), "skipped": skipped.messages, "part": part, "files": [file.name for file in shard]}
