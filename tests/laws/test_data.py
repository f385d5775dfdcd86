"""The data laws: what is seen, in which order, and where it goes on."""

import dataclasses
import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from effllm.data import BPE, Bytes, Data, TextFiles, load_codec, pack, prepare, unpack

SEED, BATCH = 3, 6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("law")
    generator = np.random.default_rng(0)
    with (root / "corpus.jsonl").open("w") as file:
        for number in range(80):
            letters = generator.integers(97, 123, generator.integers(1, 90)).astype(np.uint8)
            file.write(json.dumps({"text": f"{number} {letters.tobytes().decode()}"}) + "\n")
    return Data(
        source=TextFiles(str(root / "corpus.jsonl")), sequence_length=12, batch_size=BATCH, held_out=0.2, cache=str(root / "cache"))


@pytest.fixture(scope="module")
def dataset(data):
    return prepare(data)


def steps(dataset, count, **options):
    with dataset.train_batches(seed=SEED, batch_size=BATCH, **options) as batches:
        return list(itertools.islice(batches, count))


def rows_of(batches):
    return [
        b"".join(batch[name][row].tobytes() for name in sorted(batch))
        for batch in batches for row in range(len(batch["tokens"]))]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_example_once_an_epoch(dataset, processes):
    records, share = dataset.records("train"), BATCH // processes
    count = 2 * records // BATCH + 1
    parts = [steps(dataset, count, rows=range(share * p, share * (p + 1))) for p in range(processes)]
    seen = [row for step in zip(*parts) for part in step for row in rows_of([part])]
    stored = sorted(rows_of(dataset.held_out_batches(batch_size=1, split="train")))
    assert len(set(stored)) == records
    assert sorted(seen[:records]) == sorted(seen[records:2 * records]) == stored
    assert seen[:records] != seen[records:2 * records]


def test_order_does_not_depend_on_workers_or_rows(dataset):
    whole = steps(dataset, 9)
    assert rows_of(steps(dataset, 7, workers=2, start=2)) == rows_of(whole[2:])
    assert rows_of(steps(dataset, 9, rows=range(2, 5))) == rows_of([{k: v[2:5] for k, v in b.items()} for b in whole])


NEXT_BATCH = """
import hashlib, json, sys
from effllm.data import Data, TextFiles, prepare
path, cache, state = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
dataset = prepare(Data(source=TextFiles(path), sequence_length=12, batch_size=6, held_out=0.2, cache=cache))
start = dataset.check_state(state, seed=3, batch_size=6)
batch = next(dataset.train_batches(seed=3, batch_size=6, start=start))
print(hashlib.sha256(b"".join(batch[name].tobytes() for name in sorted(batch))).hexdigest())
"""


def test_restored_in_a_new_process(data, dataset):
    with dataset.train_batches(seed=SEED, batch_size=BATCH) as batches:
        list(itertools.islice(batches, dataset.records("train") // BATCH))
        state = batches.state()
        batch = next(batches)
    restored = subprocess.run(
        [sys.executable, "-c", NEXT_BATCH, data.source.path, data.cache, json.dumps(state)],
        capture_output=True, text=True, cwd=Path(__file__).parents[2])
    expected = hashlib.sha256(b"".join(batch[name].tobytes() for name in sorted(batch))).hexdigest()
    assert restored.stdout == expected + "\n", restored.stderr


def test_a_changed_order_refuses_in_one_line(data, dataset, tmp_path):
    state = dataset.train_batches(seed=SEED, batch_size=BATCH, start=4).state()
    assert dataset.check_state(state, seed=SEED, batch_size=BATCH) == 4
    longer = prepare(dataclasses.replace(data, sequence_length=13))
    (tmp_path / "other.jsonl").write_text("".join(json.dumps({"text": f"other {n}"}) + "\n" for n in range(80)))
    other = prepare(dataclasses.replace(data, source=TextFiles(str(tmp_path / "other.jsonl"))))
    for subject, seed, batch, complaint in (
        (dataset, 4, BATCH, "seed was 3 and is now 4"), (dataset, SEED, 5, "batch_size was 6 and is now 5"),
        (longer, SEED, BATCH, "sequence_length was 12 and is now 13"), (other, SEED, BATCH, "data_digest was"),
    ):
        with pytest.raises(ValueError, match=complaint) as caught:
            subject.check_state(state, seed=seed, batch_size=batch)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="lacks data_digest, seed, step"):
        dataset.check_state({"batch_size": BATCH, "sequence_length": 12}, seed=SEED, batch_size=BATCH)


TEXTS = ["plain words, words, words", "tabs\tand\r\nlines\n\n", "naïve 東京 😀 \N{COMBINING ACUTE ACCENT}", " leading", "<|endoftext|>", "x"]


@pytest.mark.parametrize("tokenizer", [Bytes(), BPE(vocab_size=300)], ids=lambda t: type(t).__name__)
def test_codecs_round_trip(tokenizer, tmp_path):
    codec = tokenizer.fit(text.encode() for text in TEXTS * 3)
    codec.save(tmp_path)
    loaded = load_codec(tmp_path)
    assert (loaded.vocab_size, loaded.bos, loaded.eos) == (codec.vocab_size, codec.bos, codec.eos)
    for text in TEXTS:
        ids = codec.encode(text.encode())
        assert codec.decode(ids) == loaded.decode(ids) == text
        assert np.array_equal(ids, loaded.encode(text.encode()))
        assert not {codec.bos, codec.eos} & set(ids.tolist()) and ids.max() < codec.vocab_size


@pytest.mark.parametrize("length", [1, 2, 7, 12, 500])
def test_every_pair_inside_a_document_is_scored_once(length):
    generator = np.random.default_rng(length)
    documents = [generator.integers(1, 1 << 30, size) for size in generator.integers(2, 40, 50)]
    batch = unpack(*map(np.stack, zip(*pack(documents, length))))
    scored = batch["weights"] == 1
    assert batch["tokens"][scored].tolist() == [token for document in documents for token in document[:-1]]
    assert batch["targets"][scored].tolist() == [token for document in documents for token in document[1:]]


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_pass_over_prepared_data_scores_every_pair_once(dataset, split):
    codec, inputs, targets = dataset.codec, [], []
    for batch in dataset.held_out_batches(batch_size=5, split=split):
        inputs.extend(batch["tokens"][batch["weights"] == 1].tolist())
        targets.extend(batch["targets"][batch["weights"] == 1].tolist())
    encoded = [codec.encode(document.text).tolist() for document in dataset.documents(split)]
    assert inputs == [token for ids in encoded for token in (codec.bos, *ids)]
    assert targets == [token for ids in encoded for token in (*ids, codec.eos)]
    assert len(targets) == dataset.manifest["splits"][split]["tokens"]
