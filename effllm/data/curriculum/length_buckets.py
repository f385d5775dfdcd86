"""Dataset decomposition in training: sequences of one document each, of few lengths, batches of equally many tokens."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from effllm.data import store
from effllm.data.curriculum.buckets import BucketOrder, decompose
from effllm.data.order import Curriculum, Plan
from effllm.data.packing import unpack

_FORMAT, _AT_ONCE = 1, 1024


@dataclass(frozen=True)
class LengthBuckets(Curriculum):
    """Every document cut into powers of two, from data.sequence_length down to `shortest`; a batch holds sequences of one length, of one document each.

    A batch has batch_size · sequence_length tokens, so batch_size · sequence_length / length rows: attention costs less, nothing crosses
    documents, and a step compiles once for each length (arXiv 2405.13226). lean: "grow" reads short sequences first in every cycle, "shrink"
    long ones, "uniform" neither. In a cycle every sequence is read once, but for what fills no batch of its bucket; what is shorter than
    `shortest` is never read. The buckets are written once, beside the prepared data (as large as it), and checked when opened. Raises
    ValueError where sequence_length or shortest is no power of two, or no bucket fills a batch.
    """

    shortest: int = 32
    lean: Literal["uniform", "grow", "shrink"] = "uniform"

    def plan(self, dataset, *, seed, batch_size, steps):
        decompose(1, dataset.length, self.shortest)
        directory = dataset.directory.with_name(f"{dataset.directory.name}-buckets-{self.shortest}")
        with store.locked(directory):
            if not directory.exists():
                with store.built(directory) as temporary:
                    _write(dataset, self.shortest, temporary)
        manifest = store.read_manifest(directory, _FORMAT)
        sizes = {int(length): count for length, count in manifest["sizes"].items()}
        order = BucketOrder(sizes, batch_size * dataset.length, seed, self.lean)
        digest = hashlib.sha256(json.dumps([manifest["sizes"], self.lean]).encode()).hexdigest()[:16]
        return Plan(_ReadBuckets(directory, order, manifest["dtype"], dataset.length), {"buckets": digest})


class _ReadBuckets:
    """A Read from the files of the buckets: for each of the rows asked for, longest/length sequences."""

    def __init__(self, directory: Path, order: BucketOrder, dtype: str, longest: int):
        self._directory, self._order, self._dtype, self._longest = directory, order, dtype, longest

    def __call__(self, step: int, rows: range) -> dict[str, np.ndarray]:
        length, index_n = self._order(step)
        each = self._longest // length
        stored = np.memmap(self._directory / f"{length}.bin", self._dtype, "r", shape=(self._order.size_of[length], length + 1))
        tokens_bs = np.concatenate([stored[index_n[row * each : (row + 1) * each]] for row in rows])
        return unpack(tokens_bs, np.ones(tokens_bs.shape, np.int32))


def _write(dataset, shortest: int, directory: Path) -> None:
    files, sizes, dtype = {}, {}, "<u2" if dataset.manifest["vocab_size"] <= 1 << 16 else "<u4"
    try:
        for document in whole_documents(dataset):
            at = 0
            for length in decompose(len(document) - 1, dataset.length, shortest):
                if length not in files:
                    files[length] = (directory / f"{length}.bin").open("wb")
                files[length].write(document[at : at + length + 1].astype(dtype).tobytes())
                sizes[length] = sizes.get(length, 0) + 1
                at += length
    finally:
        for file in files.values():
            file.close()
    store.write_manifest(directory, {
        "format": _FORMAT, "dtype": dtype, "sizes": {str(length): sizes[length] for length in sorted(sizes)}, "files": store.describe_files(directory),
    })


def whole_documents(dataset) -> Iterator[np.ndarray]:
    """The token ids of every training document, its begin and end included, put together again from the packed records, in their order.

    Memory: a thousand records, and the longest document.
    """
    records = dataset.train_records()
    for domain in dataset.domains().values():
        held: list[np.ndarray] = []
        for first in range(domain.start, domain.stop, _AT_ONCE):
            tokens_rs, segments_rs = records.read(list(range(first, min(first + _AT_ONCE, domain.stop))))
            fresh_rs = tokens_rs[:, 1:].ravel()
            begins = np.flatnonzero((segments_rs[:, 1:] != segments_rs[:, :-1]).ravel())
            if first == domain.start:
                fresh_rs, begins = np.concatenate([tokens_rs[0, :1], fresh_rs]), begins + 1
            for piece in np.split(fresh_rs, begins)[:-1]:
                yield np.concatenate([*held, piece])
                held = []
            held.append(fresh_rs[begins[-1] :] if len(begins) else fresh_rs)
        if domain and segments_rs[-1, -1]:
            yield np.concatenate(held)
