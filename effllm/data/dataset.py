"""A prepared data set: batches whose order is a pure function of (seed, step), whoever reads them."""

import hashlib
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from effllm.data.order import Batch, Curriculum, Plan, Read, Shuffled
from effllm.data.packing import unpack
from effllm.data.source import Document
from effllm.data.spec import Data
from effllm.data.tokenizer import Codec

_STEPS = 1 << 60
_AHEAD = 4
_THREADS = 2


def split_of(document_id: str, held_out: float) -> str:
    """The split of a document: "held_out" if sha256(id) / 2^256 < held_out, else "train"."""
    share = int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:8], "big") / 2**64
    return "held_out" if share < held_out else "train"


class Dataset:
    """What prepare() returns. `manifest`: counts, digests and description; `codec`; `directory`; `length`: tokens a row (T)."""

    def __init__(self, directory: Path, manifest: dict, codec: Codec, data: Data):
        self.directory, self.manifest, self.codec = directory, manifest, codec
        self.length: int = manifest["sequence_length"]
        self._data = data

    def records(self, split: str) -> int:
        """The number of packed records in `split` ("train" or "held_out")."""
        return self._split(split)["records"]

    def documents(self, split: str) -> Iterator[Document]:
        """The raw documents of `split`, read again from the source."""
        self._split(split)
        return (d for d in self._data.source.documents() if split_of(d.id, self.manifest["held_out"]) == split)

    def domains(self) -> dict[str, range]:
        """The training records of each domain of the source, by its name; a source of one kind has one domain, ""."""
        sizes = self._split("train")["domains"]
        ends = np.cumsum([0, *(size for _, size in sizes)]).tolist()
        return {name: range(start, stop) for (name, _), start, stop in zip(sizes, ends, ends[1:])}

    def train_records(self):
        """Random access to the training records, picklable: read(indices) -> (tokens_bs, segment_ids_bs)."""
        return self._records("train")

    def train_batches(
        self, *, seed: int, batch_size: int, rows: range | None = None, start: int = 0, workers: int = 0,
        curriculum: Curriculum = Shuffled(), steps: int = 0,
    ) -> "Batches":
        """Endless training batches from step `start` on: dicts of (B, T) arrays as unpack() describes, B = len(rows).

        `curriculum` says what each step of a run of `steps` steps reads; by default row r of the global batch of step n is example
        n·batch_size + r of the training records, repeated for ever and shuffled anew in every epoch. `rows` are the global rows to deliver (by
        default all). So the order depends on curriculum, seed, batch_size, step and steps alone: not on workers, threads, rows or where reading
        began. `workers` > 0 prepares whole batches in that many processes; they are spawned, so a script that uses them keeps its work under
        `if __name__ == "__main__"`.

        Raises ValueError for a seed outside [0, 2^32), a negative start or workers, an empty batch, or rows outside the batch.
        """
        rows = _checked_rows(rows, batch_size)
        if not 0 <= seed < 1 << 32:
            raise ValueError(f"seed={seed}: give a number from 0 to 2^32 - 1")
        if start < 0 or workers < 0:
            raise ValueError(f"start={start}, workers={workers}: neither can be negative")
        plan = curriculum.plan(self, seed=seed, batch_size=batch_size, steps=steps)
        return Batches(plan, self._identity(seed, batch_size), rows, start, workers)

    def held_out_batches(
        self, *, batch_size: int, rows: range | None = None, limit: int | None = None, split: str = "held_out",
    ) -> Iterator[dict[str, np.ndarray]]:
        """The records of `split` in stored order, once; `limit` counts batches.

        The last batch is filled up with rows of segment_ids 0 and weights 0, so that shapes never change and every process
        (with its `rows` of the global batch) sees the same number of batches.
        """
        rows = _checked_rows(rows, batch_size)
        records = self._records(split)
        batches = -(-len(records) // batch_size)
        for number in range(batches if limit is None else min(limit, batches)):
            indices = [number * batch_size + row for row in rows]
            tokens_bs, segments_bs = records.read([index for index in indices if index < len(records)])
            missing = ((0, len(indices) - len(tokens_bs)), (0, 0))
            yield unpack(np.pad(tokens_bs, missing), np.pad(segments_bs, missing))

    def check_state(self, state: dict, *, seed: int, batch_size: int) -> int:
        """The step at which `state` (of Batches.state()) continues in plain order under this data set, seed and batch size.

        Raises ValueError naming what differs, because the order of examples would not continue.
        """
        return _continued(state, self._identity(seed, batch_size))

    def _identity(self, seed: int, batch_size: int) -> dict:
        return {"seed": seed, "batch_size": batch_size, "sequence_length": self.length, "data_digest": self.manifest["digest"]}

    def _split(self, split: str) -> dict:
        if split not in self.manifest["splits"]:
            raise ValueError(f"split={split!r}: the data has {' and '.join(self.manifest['splits'])}")
        return self.manifest["splits"][split]

    def _records(self, split: str):
        from effllm.data.records import Layout, Records

        layout = Layout.of(self.manifest["vocab_size"], self.length)
        return Records([self.directory / name for name in self._split(split)["shards"]], layout)


class Batches(Iterator[dict[str, np.ndarray]]):
    """The iterator of Dataset.train_batches(): reads ahead, says where it is, and can be closed (also by `with`)."""

    def __init__(self, plan: Plan, identity: dict, rows: range, start: int, workers: int):
        import grain

        if workers:
            _mark_flags_parsed()
        steps = grain.MapDataset.range(start, start + _STEPS).map(_ReadStep(plan.read, rows))
        batches = steps.to_iter_dataset(grain.ReadOptions(num_threads=1 if workers else _THREADS, prefetch_buffer_size=_AHEAD))
        if workers:
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_AHEAD)
            batches = batches.mp_prefetch(options, worker_init_fn=_exit_with_parent)
        self._reader = [iter(batches)]
        self._stop = weakref.finalize(self, _close_all, self._reader)
        self._identity, self._step, self._copy = identity | plan.needs, start, workers > 0

    def __next__(self) -> Batch:
        if not self._reader:
            raise StopIteration
        batch = next(self._reader[0])
        self._step += 1
        return {name: np.array(array) for name, array in batch.items()} if self._copy else batch

    def state(self) -> dict:
        """The next step and what the order depends on; plain values, for check_state()."""
        return {"step": self._step, **self._identity}

    def check_state(self, state: dict) -> int:
        """The step at which `state` continues in this order. Raises ValueError naming what differs."""
        return _continued(state, self._identity)

    def close(self) -> None:
        """Ends the threads and processes that read ahead; the iterator is exhausted afterwards."""
        self._stop()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _close_all(readers: list) -> None:
    """Closes and forgets Grain iterators; ones that outlive their modules complain when the interpreter ends."""
    while readers:
        readers.pop().close()


class _ReadStep:
    """Step number to batch."""

    def __init__(self, read: Read, rows: range):
        self._read, self._rows = read, rows

    def __call__(self, step: int) -> Batch:
        return self._read(int(step), self._rows)


def _continued(state: dict, now: dict) -> int:
    if missing := sorted({"step", *now} - set(state)):
        raise ValueError(f"the saved data state lacks {', '.join(missing)}: it was not written by effllm, or by another curriculum")
    changed = [f"{name} was {state[name]} and is now {now.get(name)}" for name in state if name != "step" and state[name] != now.get(name)]
    if changed:
        raise ValueError(f"the data order cannot continue: {'; '.join(changed)}; set it back, or start a new run")
    return state["step"]


def _checked_rows(rows: range | None, batch_size: int) -> range:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: give a positive number")
    rows = range(batch_size) if rows is None else rows
    if not rows or min(rows) < 0 or max(rows) >= batch_size:
        raise ValueError(f"rows={rows}: give some rows of the global batch of {batch_size}")
    return rows


def _mark_flags_parsed() -> None:
    """Grain's processes read absl flags, which only absl programs have parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _exit_with_parent(index: int, count: int) -> None:
    """Makes a worker end within a second of its parent, which may be killed without a chance to stop it."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="effllm-parent-watch", daemon=True).start()
