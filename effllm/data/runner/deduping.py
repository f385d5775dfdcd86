"""Deduplication of a corpus on disk, in stages whose memory does not grow with it.

    sign     every shard: keys of each document, one sorted run a band; scores
    pair     every band and key range: the runs' slices of that range, merged; documents with equal keys
    collect  every shard: the evidence of the documents that stand in a pair
    verify   the pairs, a block at a time, against the evidence
    write    every shard: the documents that stay

In memory are, at once: a batch of documents and the keys of one shard a worker (8 bytes a key); in `pair` the keys of one range; and here, between the stages, 16 bytes a candidate
pair and about 40 bytes a document. On the disk under OUT/.work: 16 bytes a key, and the evidence of the documents in pairs.
"""

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from effllm.data.dedup.clusters import best_of_each, components
from effllm.data.dedup.keyed import Keyed
from effllm.data.dedup.lsh import group_pairs
from effllm.data.runner.passes import batches, write_kept
from effllm.data.runner.read import Reading, Record, Skipped
from effllm.data.runner.shards import Shard, input_files, shards
from effllm.data.runner.work import Work, work
from effllm.data.runner.write import write_array, write_json

_RANGE, _PAIRS, _OPEN, EXAMPLES = 1 << 22, 1 << 15, 64, 5
ENTRY = np.dtype([("key", "<u8"), ("document", "<u8")])


def length(record: Record) -> float:
    """The default score: the longest of a cluster stays."""
    return float(len(record.text))


@dataclasses.dataclass(frozen=True)
class FieldScore:
    """The value of a numeric field, such as a quality score that a classifier wrote. Raises ValueError for a record without it, or where it is NaN."""

    field: str

    def __call__(self, record: Record) -> float:
        value = record.rest.get(self.field)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value != value:
            raise ValueError(f"record {record.id} has no numeric field {self.field!r}: set --score-field to one that every record has")
        return float(value)


def dedup_corpus(
    source: str, out: str | Path, method: Keyed, *, score: Callable[[Record], float] = length, reading: Reading = Reading(), form: str = "jsonl.zst",
    workers: int = 1, shard_bytes: int = 64 << 20, progress: bool = False,
) -> dict:
    """Writes one document of every cluster of duplicates, the one with the highest score, and returns the manifest (also out/manifest.json).

    Of equal scores the first document stays; ids and other fields are kept; "clusters" in the manifest is {size: how many}. The result does
    not depend on workers or shard_bytes, except that more than 16 documents of one key are compared with the first and the one before only.
    Raises what work() and records() raise.
    """
    files = input_files(source)
    groups = shards(files, shard_bytes)
    options = {"method": method, "score": score, "reading": reading, "form": form, "shard_bytes": shard_bytes}
    with work(out, "dedup", source, files, options, workers=workers, progress=progress) as run:
        for folder in ("keys", "pairs", "evidence", "similar"):
            (run.directory / folder).mkdir(exist_ok=True)
        (run.out / "dropped").mkdir(exist_ok=True)
        base = str(run.directory)
        signed = run.map("sign", sign, [(i, group, method, score, reading, base) for i, group in enumerate(groups)], skip=reading.skip)
        first = np.concatenate([[0], np.cumsum([s["documents"] for s in signed])])
        label_d, keep_d, pairs, similarity_p = _decide(run, method, groups, reading, first)
        examples = _partners(label_d, keep_d, pairs, similarity_p, first)
        tasks = [
            (i, group, reading, str(run.out), f"part-{i:05d}.{form}", keep_d[first[i] : first[i + 1]], "duplicate", examples.get(i, ()))
            for i, group in enumerate(groups)
        ]
        results = run.map("write", write_kept, tasks, skip=reading.skip)
        _join_examples(run.out, results)
        sizes = Counter(np.unique(label_d, return_counts=True)[1].tolist())
        return run.finish(results, clusters={str(size): sizes[size] for size in sorted(sizes) if size > 1})


def _decide(run: Work, method: Keyed, groups: list[Shard], reading: Reading, first: np.ndarray) -> tuple[np.ndarray, ...]:
    """(label_d, keep_d, verified pairs, their similarity) from the signed shards."""
    base, count = str(run.directory), int(first[-1])
    ranges = max(1, -(-count // _RANGE))
    run.map("pair", pair, [(band, part, ranges, len(groups), base, first) for band in range(method.bands) for part in range(ranges)])
    found = [np.load(path) for path in sorted((run.directory / "pairs").glob("*.npy"))]
    pairs = unique_pairs(np.concatenate(found)) if found else np.zeros((0, 2), np.int64)
    wanted = np.unique(pairs)
    local = [wanted[(wanted >= a) & (wanted < b)] - a for a, b in zip(first, first[1:])]
    run.map("collect", collect, [(i, group, method, reading, base, local[i]) for i, group in enumerate(groups) if len(local[i])], skip=reading.skip)
    blocks = [pairs[at : at + _PAIRS] for at in range(0, len(pairs), _PAIRS)]
    run.map("verify", verify, [(i, block, method, base, first) for i, block in enumerate(blocks)])
    similarity_p = np.concatenate([np.load(run.directory / "similar" / f"{i:06d}.npy") for i in range(len(blocks))]) if blocks else np.zeros(0)
    good_p = similarity_p >= 0
    score_d = np.concatenate([np.load(run.directory / "keys" / f"score-{i:05d}.npy") for i in range(len(groups))])
    label_d = components(count, pairs[good_p])
    return label_d, best_of_each(label_d, score_d), pairs[good_p], similarity_p[good_p]


def unique_pairs(pair_p2: np.ndarray) -> np.ndarray:
    """Each pair once, i < j, sorted."""
    low, high = pair_p2.min(1), pair_p2.max(1)
    order = np.lexsort((high, low))
    pair_p2 = np.stack([low, high], 1)[order]
    return pair_p2[np.r_[True, (pair_p2[1:] != pair_p2[:-1]).any(1)]] if len(pair_p2) else pair_p2


def sign(number: int, shard: Shard, method: Keyed, score: Callable[[Record], float], reading: Reading, base: str) -> dict:
    """Writes keys/band-…-shard.npy (ENTRY, sorted by key, documents counted within the shard) and keys/score-shard.npy."""
    skipped, scores, keys, used = Skipped(reading), [], [], []
    for group in batches(shard, reading, skipped):
        key_db, used_d = method.keys([record.text.encode() for record in group])
        keys.append(key_db)
        used.append(used_d)
        scores += [score(record) for record in group]
    key_db = np.concatenate(keys) if keys else np.zeros((0, method.bands), np.uint64)
    member = np.flatnonzero(np.concatenate(used)) if used else np.zeros(0, np.int64)
    for band in range(method.bands):
        run = np.empty(len(member), ENTRY)
        order = np.argsort(key_db[member, band], kind="stable")
        run["key"], run["document"] = key_db[member[order], band], member[order]
        write_array(Path(base, "keys", f"band-{band:03d}-{number:05d}.npy"), run)
    write_array(Path(base, "keys", f"score-{number:05d}.npy"), np.array(scores, np.float64))
    return {"documents": len(scores), "skipped": skipped.messages}


def pair(band: int, part: int, ranges: int, count: int, base: str, first: np.ndarray) -> dict:
    """Writes pairs/band-part.npy: pairs of documents with equal keys in the part-th of `ranges` equal slices of the key space."""
    low, high = ((1 << 64) * part // ranges, (1 << 64) * (part + 1) // ranges - 1)
    slices = []
    for number in range(count):
        run = np.load(Path(base, "keys", f"band-{band:03d}-{number:05d}.npy"), mmap_mode="r")
        begin = np.searchsorted(run["key"], np.uint64(low), "left")
        end = np.searchsorted(run["key"], np.uint64(high), "right")
        piece = np.array(run[begin:end])
        piece["document"] += np.uint64(first[number])
        slices.append(piece)
    merged = np.concatenate(slices)
    merged = merged[np.argsort(merged["key"], kind="stable")]
    pair_p2 = merged["document"].astype(np.int64)[group_pairs(merged["key"])]
    write_array(Path(base, "pairs", f"{band:03d}-{part:05d}.npy"), pair_p2)
    return {"pairs": len(pair_p2)}


def collect(number: int, shard: Shard, method: Keyed, reading: Reading, base: str, wanted: np.ndarray) -> dict:
    """Writes the evidence of the `wanted` documents of a shard, end to end, and where each begins."""
    skipped, parts, at = Skipped(reading), [], 0
    for group in batches(shard, reading, skipped):
        here = wanted[(wanted >= at) & (wanted < at + len(group))] - at
        parts += method.evidence([group[i].text.encode() for i in here]) if len(here) else []
        at += len(group)
    start = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    write_array(Path(base, "evidence", f"data-{number:05d}.npy"), np.concatenate(parts))
    write_array(Path(base, "evidence", f"index-{number:05d}.npy"), np.stack([np.r_[wanted, -1], start]))
    return {"skipped": skipped.messages}


def verify(number: int, pair_p2: np.ndarray, method: Keyed, base: str, first: np.ndarray) -> dict:
    """Writes similar/number.npy: the similarity of each pair, −1 where they are no duplicates."""
    @functools.lru_cache(_OPEN)
    def store(shard: int) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.load(Path(base, "evidence", f"{kind}-{shard:05d}.npy"), mmap_mode="r") for kind in ("data", "index"))

    def evidence(document: int) -> np.ndarray:
        shard = int(np.searchsorted(first, document, "right")) - 1
        data, (wanted, start) = store(shard)
        at = int(np.searchsorted(wanted[:-1], document - first[shard]))
        return np.asarray(data[start[at] : start[at + 1]])

    found = [method.similar(evidence(i), evidence(j)) for i, j in pair_p2.tolist()]
    write_array(Path(base, "similar", f"{number:06d}.npy"), np.array([-1.0 if s is None else s for s in found], np.float64))
    return {"verified": sum(s is not None for s in found)}


def _partners(label_d: np.ndarray, keep_d: np.ndarray, pairs: np.ndarray, similarity_p: np.ndarray, first: np.ndarray) -> dict[int, tuple]:
    """{shard: ((document within it, (shard, document) that stayed or None, similarity), …)}: some dropped documents and the ones kept for them."""
    examples: dict[int, list] = {}

    def place(d):
        shard = int(np.searchsorted(first, d, "right")) - 1
        return shard, int(d - first[shard])

    for d in np.flatnonzero(~keep_d)[: 4 * EXAMPLES].tolist():
        kept = int(np.flatnonzero(keep_d & (label_d == label_d[d]))[0])
        direct = similarity_p[(pairs == sorted((d, kept))).all(1)].tolist()
        shard, local = place(d)
        examples.setdefault(shard, []).append((local, place(kept), direct[0] if direct else None))
        other, there = place(kept)
        examples.setdefault(other, []).append((there, None, None))
    return {shard: tuple(dict((entry[0], entry) for entry in entries).values()) for shard, entries in examples.items()}


def _join_examples(out: Path, results: list[dict]) -> None:
    """Puts beside every example the text that stayed for it, and the whole into dropped/examples.json."""
    parts = [out / "dropped" / f"{r['part'].partition('.')[0]}.json" for r in results]
    if not (out / "dropped" / "examples.json").exists():
        found = {tuple(e["document"]): e for path in parts if path.exists() for e in json.loads(path.read_bytes())}
        examples = [
            {"id": e["id"], "text": e["text"], "reason": "duplicate", "similarity": e["similarity"]}
            | {f"kept_{name}": found[tuple(e["partner"])][name] for name in ("id", "text")}
            for _, e in sorted(found.items()) if e["partner"] is not None
        ]  # fmt: skip
        write_json(out / "dropped" / "examples.json", examples)
    for path in parts:
        path.unlink(missing_ok=True)
