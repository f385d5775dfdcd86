"""Passes over a shard that several commands make."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from effllm.data.runner.read import Reading, Record, Skipped, records
from effllm.data.runner.shards import Shard
from effllm.data.runner.write import write_json, writer

_BATCH = 4 << 20


def batches(shard: Shard, reading: Reading, skipped: Skipped) -> Iterator[list[Record]]:
    """The records of a shard, a few megabytes at a time."""
    group, held = [], 0
    for file in shard:
        for record in records(file, reading, skipped):
            group.append(record)
            held += len(record.text)
            if held >= _BATCH:
                yield group
                group, held = [], 0
    if group:
        yield group


def write_kept(number: int, shard: Shard, reading: Reading, out: str, part: str, keep_d: np.ndarray, reason: str, examples: tuple) -> dict:
    """Writes the kept documents of a shard; those dropped count under `reason`.

    examples: (document, what stayed for it: (shard, document) or None, similarity or None) of which the texts go to dropped/part.json.
    """
    skipped, seen, shown, texts = Skipped(reading), 0, {i for i, *_ in examples}, {}
    with writer(Path(out, part), reading.field, reading.id_field) as put:
        for file in shard:
            for record in records(file, reading, skipped):
                if keep_d[seen]:
                    put(record)
                if seen in shown:
                    texts[seen] = {"id": record.id, "text": record.text[:2000]}
                seen += 1
    told = [{"document": [number, i], "partner": partner, "similarity": similarity} | texts[i] for i, partner, similarity in examples]
    write_json(Path(out, "dropped", f"{part.partition('.')[0]}.json"), told)
    kept = int(np.count_nonzero(keep_d))
    dropped = {reason: seen - kept} if seen > kept else {}
    return {"in": seen, "documents": kept, "dropped": dropped, "skipped": skipped.messages, "part": part, "files": [file.name for file in shard]}
