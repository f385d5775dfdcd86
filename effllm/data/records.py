"""Packed records as a TFDS data set in array_record: written shard by shard, read by index.

A stored example has two features, `tokens` and `segments`: the little-endian bytes of length + 1 unsigned integers each.
This module is imported only where data is written or read, because TFDS and array_record are slow to import. (TFDS looks for
files beside the module of a builder, which is why the builder cannot live in a script.)
"""

import contextlib
import errno
import functools
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.proto import tf_example_pb2

_SHARD_BYTES = 64 << 20


class Layout(NamedTuple):
    """How a record is stored: positions a record (sequence_length + 1) and the integer type of each array."""

    positions: int
    tokens: np.dtype
    segments: np.dtype

    @classmethod
    def of(cls, vocab_size: int, sequence_length: int) -> "Layout":
        positions = sequence_length + 1
        return cls(positions, _unsigned(vocab_size - 1), _unsigned(positions))

    @property
    def row(self) -> np.dtype:
        """The structured type of one record."""
        return np.dtype([("tokens", self.tokens, (self.positions,)), ("segments", self.segments, (self.positions,))])


def _unsigned(largest: int) -> np.dtype:
    return np.dtype("<u2" if largest < 1 << 16 else "<u4")


class PackedRecords(tfds.core.ShardBasedBuilder):
    """Writes spooled rows (Layout.row, one flat file a split) as a TFDS data set.

    Sharded by hand, because TFDS's own writer keeps a whole split in memory before it writes one.
    """

    VERSION = tfds.core.Version("1.0.0")
    name = "packed_records"

    def __init__(self, *, spools: dict[str, Path], layout: Layout, data_dir: Path):
        self._spools, self._layout = spools, layout
        super().__init__(data_dir=str(data_dir), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"tokens": tfds.features.Text(), "segments": tfds.features.Text()})
        return tfds.core.DatasetInfo(
            builder=self, features=features, disable_shuffling=True,
            description=f"Packed token records: little-endian {self._layout.tokens} tokens and {self._layout.segments} segments.")

    def _shard_iterators_per_split(self, dl_manager):
        return {split: self._shards(spool) for split, spool in self._spools.items()}

    def _shards(self, spool: Path) -> list:
        rows = spool.stat().st_size // self._layout.row.itemsize
        shard = max(1, _SHARD_BYTES // self._layout.row.itemsize)
        return [functools.partial(self._examples, spool, start, min(start + shard, rows)) for start in range(0, rows, shard)]

    def _examples(self, spool: Path, start: int, stop: int) -> Iterator[tuple[int, dict[str, bytes]]]:
        rows = np.memmap(spool, self._layout.row, "r")
        for index in range(start, stop):
            yield index, {"tokens": rows[index]["tokens"].tobytes(), "segments": rows[index]["segments"].tobytes()}


def write_records(spools: dict[str, Path], layout: Layout, directory: Path) -> dict[str, list[Path]]:
    """Writes a TFDS data set under `directory` without a word on the terminal; returns the shard files of each split.

    Raises OSError for what array_record reports as RuntimeError.
    """
    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder = PackedRecords(spools=spools, layout=layout, data_dir=directory)
            builder.download_and_prepare()
    except RuntimeError as error:
        full = os.strerror(errno.ENOSPC) in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, f"array_record could not write: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    return {split: [Path(path) for path in builder.info.splits[split].filepaths] for split in spools}


class Records:
    """Random access to the records of some shard files; picklable, opened where it is used."""

    def __init__(self, shards: list[Path], layout: Layout):
        self._layout = layout
        self._examples = ArrayRecordDataSource([str(path) for path in shards])

    def __len__(self) -> int:
        return len(self._examples)

    def read(self, indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """(tokens_bs, segment_ids_bs) of the records at `indices`, in the stored integer types."""
        shape = (len(indices), self._layout.positions)
        tokens_bs, segments_bs = np.empty(shape, self._layout.tokens), np.empty(shape, self._layout.segments)
        for row, serialized in enumerate(self._examples.__getitems__(indices) if indices else ()):
            feature = tf_example_pb2.Example.FromString(serialized).features.feature
            tokens_bs[row] = np.frombuffer(feature["tokens"].bytes_list.value[0], self._layout.tokens)
            segments_bs[row] = np.frombuffer(feature["segments"].bytes_list.value[0], self._layout.segments)
        return tokens_bs, segments_bs
