"""Removal of repeated substrings from a corpus on disk.

    spans   once: the corpus is read whole, and the spans of every shard are written
    write   every shard: the texts without their spans
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effllm.data.dedup.substring import repeated_spans, without
from effllm.data.runner.passes import batches
from effllm.data.runner.read import Reading, Skipped
from effllm.data.runner.shards import Shard, input_files, shards
from effllm.data.runner.work import work
from effllm.data.runner.write import write_array, write_json, writer

EXAMPLES = 5


@dataclass(frozen=True)
class Substring:
    """Every window of `length` bytes stays once, where it stands first; later copies are cut out of their texts (ExactSubstr of arXiv 2107.06499).

    The suffix array holds the corpus in memory, at about 60 bytes a byte: a corpus of more than max_mb megabytes of text is refused, and wants
    Near() first or shards that are cut one by one. Raises ValueError for a length below 1.
    """

    length: int = 200
    max_mb: int = 100

    def __post_init__(self):
        if self.length < 1 or self.max_mb < 1:
            raise ValueError(f"{self}: give a positive number of bytes and of megabytes")


def cut_corpus(
    source: str, out: str | Path, method: Substring, *, reading: Reading = Reading(), form: str = "jsonl.zst", workers: int = 1,
    shard_bytes: int = 64 << 20, progress: bool = False,
) -> dict:
    """Writes the texts without their repeated spans and returns the manifest (also out/manifest.json); ids and other fields are kept.

    A text of which nothing but white space is left is dropped as "only_repeats". "cut" in the manifest counts texts that were cut, spans and bytes.
    The result does not depend on workers or shard_bytes. Raises what work() and records() raise, and ValueError for a corpus above max_mb.
    """
    files = input_files(source)
    groups = shards(files, shard_bytes)
    options = {"method": method, "reading": reading, "form": form, "shard_bytes": shard_bytes}
    with work(out, "dedup", source, files, options, workers=workers, progress=progress) as run:
        for folder in (run.directory / "cuts", run.out / "dropped"):
            folder.mkdir(exist_ok=True)
        run.map("spans", spans, [(groups, method, reading, str(run.directory))], skip=reading.skip)
        tasks = [(i, group, reading, str(run.directory), str(run.out), f"part-{i:05d}.{form}") for i, group in enumerate(groups)]
        results = run.map("write", write_cut, tasks, skip=reading.skip)
        return run.finish(results, cut={name: sum(r["cut"][name] for r in results) for name in ("documents", "spans", "bytes")})


def spans(groups: list[Shard], method: Substring, reading: Reading, base: str) -> dict:
    """Writes cuts/shard.npy, rows of (document within the shard, start, end)."""
    skipped, texts, first, held = Skipped(reading), [], [0], 0
    for shard in groups:
        for group in batches(shard, reading, skipped):
            texts += [record.text.encode() for record in group]
            held += sum(len(text) for text in texts[len(texts) - len(group) :])
            if held > method.max_mb << 20:
                raise ValueError(f"the corpus has more than {method.max_mb} MB of text, for which Substring would need {60 * method.max_mb / 1024:.0f} GB: "
                                 "raise max_mb, or take Near() first and cut parts of the corpus by themselves")
        first.append(len(texts))
    found = repeated_spans(texts, method.length)
    for number, (a, b) in enumerate(zip(first, first[1:])):
        rows = [(d - a, start, end) for d in range(a, b) for start, end in found[d]]
        write_array(Path(base, "cuts", f"{number:05d}.npy"), np.array(rows, np.int64).reshape(-1, 3))
    return {"skipped": skipped.messages}


def write_cut(number: int, shard: Shard, reading: Reading, base: str, out: str, part: str) -> dict:
    """Writes a shard without its spans, and some examples of what was cut."""
    skipped, rows, examples, seen, kept = Skipped(reading), np.load(Path(base, "cuts", f"{number:05d}.npy")), [], 0, 0
    edge = np.searchsorted(rows[:, 0], np.arange(rows[-1, 0] + 2)) if len(rows) else np.zeros(1, int)
    with writer(Path(out, part), reading.field, reading.id_field) as put:
        for group in batches(shard, reading, skipped):
            for record in group:
                own = rows[edge[seen] : edge[seen + 1], 1:].tolist() if seen + 1 < len(edge) else []
                seen += 1
                left = without(record.text.encode(), own).decode()
                empty = bool(own) and not left.strip()
                if own and len(examples) < EXAMPLES:
                    shown = {"kept_id": "what is left of it", "kept_text": left[:2000]}
                    examples.append({"id": record.id, "text": record.text[:2000], "reason": "only_repeats" if empty else "repeats_cut"} | ({} if empty else shown))
                if not empty:
                    record.text = left
                    kept += 1
                    put(record)
    write_json(Path(out, "dropped", f"{part.partition('.')[0]}.json"), examples)
    cut = {"documents": len(np.unique(rows[:, 0])), "spans": len(rows), "bytes": int((rows[:, 2] - rows[:, 1]).sum())}
    dropped = {"only_repeats": seen - kept} if seen > kept else {}
    return {"in": seen, "documents": kept, "dropped": dropped, "cut": cut, "skipped": skipped.messages, "part": part, "files": [file.name for file in shard]}
