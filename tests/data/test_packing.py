import itertools

import numpy as np
import pytest

from effllm.data import pack, packing, unpack


def test_records_overlap_by_one_and_count_their_documents():
    records = [(t.tolist(), s.tolist()) for t, s in pack([np.array([9, 1, 2, 9]), np.array([9, 3, 9]), np.array([9, 4, 9])], 4)]
    assert records == [
        ([9, 1, 2, 9, 9], [1, 1, 1, 1, 2]),
        ([9, 3, 9, 9, 4], [1, 1, 1, 2, 2]),
        ([4, 9, 0, 0, 0], [1, 1, 0, 0, 0]),
    ]


def test_no_record_of_padding_alone():
    assert len(list(pack([np.arange(1, 10)], 4))) == 2
    assert len(list(pack([np.arange(1, 11)], 4))) == 3
    assert list(pack([], 4)) == list(pack([np.array([5])], 4)) == []
    with pytest.raises(ValueError, match="length=0"):
        next(pack([np.array([1, 2])], 0))


def test_blocks_do_not_show(monkeypatch):
    generator = np.random.default_rng(0)
    documents = [generator.integers(1, 99, size) for size in generator.integers(0, 40, 200)]
    whole = [np.stack(record) for record in pack(documents, 7)]
    monkeypatch.setattr(packing, "_BLOCK", 1)
    pieces = [np.stack(record) for record in pack(iter(documents), 7)]
    assert np.array_equal(whole, pieces)


def test_packing_reads_no_further_than_it_must():
    endless = (np.full(1000, 7) for _ in itertools.count())
    assert len(list(itertools.islice(pack(endless, 64), 5))) == 5


def test_unpack():
    batch = unpack(np.array([[9, 1, 9, 9, 4, 0]], np.uint16), np.array([[1, 1, 1, 2, 2, 0]], np.uint16))
    assert {name: array.tolist() for name, array in batch.items()} == {
        "tokens": [[9, 1, 9, 9, 4]],
        "targets": [[1, 9, 9, 4, 0]],
        "segment_ids": [[1, 1, 1, 2, 2]],
        "positions": [[0, 1, 2, 0, 1]],
        "weights": [[1, 1, 0, 1, 0]],
    }
    assert {name: array.dtype.name for name, array in batch.items()} == {
        "tokens": "int32", "targets": "int32", "segment_ids": "int32", "positions": "int32", "weights": "float32"}


def test_padding_has_no_weight():
    batch = unpack(np.zeros((2, 5), np.uint16), np.zeros((2, 5), np.uint16))
    assert not batch["weights"].any() and not batch["segment_ids"].any()
