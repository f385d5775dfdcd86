"""A corpus to a prepared directory: split by document, encode, pack, write, verify."""

import dataclasses
import errno
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from effllm.data import store
from effllm.data.dataset import Dataset, split_of
from effllm.data.packing import pack_blocks
from effllm.data.source import Document
from effllm.data.spec import Data
from effllm.data.tokenizer import Codec, load_codec

FORMAT = 2
SPLITS = ("train", "held_out")
_ENCODED_AT_ONCE = 4 << 20


def prepare(data: Data, *, progress: bool = False) -> Dataset:
    """The data set of `data`, prepared now or opened from the cache.

    Prepared data is named by the source and its stamp, the tokenizer, the sequence length and the held-out share, so that a
    changed corpus or setting prepares anew and an unchanged one only has its files compared with their digests. A document is
    held out if sha256(id) / 2^256 < held_out. Processes of one host wait for each other instead of preparing twice.

    Raises what the source and the tokenizer raise; ValueError if a split is empty, if the training split is shorter than a
    batch, or if a prepared file is damaged (named); OSError if the disk is full. Nothing half-written is left behind.
    """
    directory = store.cache_root(data.cache) / _name(data)
    if not directory.exists():
        with store.locked(directory):
            if not directory.exists():
                with store.built(directory) as temporary:
                    _write(data, temporary, progress)
    manifest = store.read_manifest(directory, FORMAT)
    dataset = Dataset(directory, manifest, load_codec(directory), data)
    _check_batch(dataset, data)
    return dataset


def _name(data: Data) -> str:
    key = {
        "format": FORMAT, "source": describe(data.source), "source_stamp": data.source.stamp(),
        "tokenizer": describe(data.tokenizer), "tokenizer_stamp": data.tokenizer.stamp(),
        "sequence_length": data.sequence_length, "held_out": data.held_out,
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]


def describe(value: Any) -> Any:
    """A source or tokenizer as plain values: its class and its fields, at every depth."""
    if isinstance(value, (tuple, list)):
        return [describe(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not dataclasses.is_dataclass(value):
        return value
    fields = {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return {"class": f"{type(value).__module__}.{type(value).__qualname__}", **fields}


def _write(data: Data, directory: Path, progress: bool) -> None:
    from effllm.data.records import Layout, write_records

    codec = data.tokenizer.fit(document.text for document in _documents(data, "train", progress, "fit tokenizer"))
    layout = Layout.of(codec.vocab_size, data.sequence_length)
    work = directory / "work"
    work.mkdir()
    spools = {split: work / split for split in SPLITS}
    counts = {split: _spool(data, split, codec, layout.row, spools[split], progress) for split in SPLITS}
    _check_splits(data, counts)
    if shutil.disk_usage(work).free < 1.1 * sum(spool.stat().st_size for spool in spools.values()):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    shards = write_records(spools, layout, work)
    _count_again(shards, layout, counts)
    written = next(iter(shards.values()))[0].parent
    written.rename(directory / "records")
    shutil.rmtree(work)
    codec.save(directory)
    splits = {
        split: counts[split] | {"shards": [f"records/{path.name}" for path in shards[split]]}
        for split in SPLITS
    }
    store.write_manifest(directory, {
        "format": FORMAT,
        "fingerprint": _digest(*(counts[split]["fingerprint"] for split in SPLITS)),
        "digest": _digest(*(counts[split]["digest"] for split in SPLITS)),
        "source": describe(data.source), "tokenizer": describe(data.tokenizer), "notes": list(data.source.notes()),
        "sequence_length": data.sequence_length, "held_out": data.held_out, "vocab_size": codec.vocab_size,
        "splits": splits, "files": store.describe_files(directory),
    })


def _documents(data: Data, split: str, progress: bool, label: str) -> Iterator[Document]:
    from tqdm import tqdm

    with tqdm(desc=label, unit="B", unit_scale=True, leave=False, disable=not progress) as bar:
        for document in data.source.documents():
            bar.update(len(document.text))
            if split_of(document.id, data.held_out) == split:
                yield document


def _spool(data: Data, split: str, codec: Codec, row: np.dtype, path: Path, progress: bool) -> dict:
    """Encodes and packs a split into a flat file of rows, domain after domain; returns its counts and digests."""
    counts = {"documents": 0, "bytes": 0, "tokens": 0, "records": 0, "domains": []}
    fingerprint, digest = hashlib.sha256(), hashlib.sha256()

    def streams(encoded: Iterator[tuple[Document, np.ndarray]]) -> Iterator[np.ndarray]:
        for document, ids in encoded:
            counts["documents"] += 1
            counts["bytes"] += len(document.text)
            counts["tokens"] += len(ids) + 1
            fingerprint.update(f"{document.id}\0{len(document.text)}\0".encode())
            fingerprint.update(document.text)
            yield np.concatenate([[codec.bos], ids, [codec.eos]], dtype=np.int32, casting="same_kind")

    every = _encoded(_documents(data, split, progress, f"encode {split}"), codec)
    with path.open("wb") as file:
        for domain, encoded in itertools.groupby(every, key=lambda pair: pair[0].domain):
            before = counts["records"]
            if any(domain == name for name, _ in counts["domains"]):
                raise ValueError(f"data.source gives documents of domain {domain!r}, then others, then {domain!r} again: give each domain's one after another")
            for tokens_rs, segments_rs in pack_blocks(streams(encoded), data.sequence_length):
                rows = np.empty(len(tokens_rs), row)
                rows["tokens"], rows["segments"] = tokens_rs, segments_rs
                stored = rows.tobytes()
                digest.update(stored)
                file.write(stored)
                counts["records"] += len(rows)
            counts["domains"].append([domain, counts["records"] - before])
    return counts | {"fingerprint": fingerprint.hexdigest(), "digest": digest.hexdigest()}


def _encoded(documents: Iterator[Document], codec: Codec) -> Iterator[tuple[Document, np.ndarray]]:
    """Documents with their ids, a few megabytes of text at a time."""
    group, held = [], 0
    for document in documents:
        group.append(document)
        held += len(document.text)
        if held >= _ENCODED_AT_ONCE:
            yield from zip(group, _encode(group, codec))
            group, held = [], 0
    yield from zip(group, _encode(group, codec))


def _encode(group: list[Document], codec: Codec) -> list[np.ndarray]:
    try:
        return codec.encode_batch([document.text for document in group])
    except ValueError:
        for document in group:
            try:
                codec.encode(document.text)
            except ValueError as error:
                raise ValueError(f"document {document.id}: {error}") from error
        raise


def _check_splits(data: Data, counts: dict[str, dict]) -> None:
    documents = sum(split["documents"] for split in counts.values())
    for split, remedy in (("train", "lower"), ("held_out", "raise")):
        if not counts[split]["records"]:
            raise ValueError(
                f"the {split} split is empty: the source has {documents} document(s) and a document is never cut in two; "
                f"{remedy} data.held_out={data.held_out}, or give more documents (split the text into several files or lines)")


def _count_again(shards: dict[str, list[Path]], layout: Any, counts: dict[str, dict]) -> None:
    from effllm.data.records import Records

    for split, paths in shards.items():
        stored, packed = len(Records(paths, layout)), counts[split]["records"]
        if stored != packed:
            raise OSError(f"{stored} of {packed} {split} records were stored under {paths[0].parent}: check the disk and try again")


def _check_batch(dataset: Dataset, data: Data) -> None:
    if dataset.records("train") < data.batch_size:
        tokens, need = dataset.manifest["splits"]["train"]["tokens"], data.batch_size * data.sequence_length
        raise ValueError(
            f"the corpus is shorter than one batch: {tokens} training tokens fill {dataset.records('train')} sequence(s), "
            f"and a batch of {data.batch_size} x {data.sequence_length} needs {need}; "
            "lower data.batch_size or data.sequence_length, or add text")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
