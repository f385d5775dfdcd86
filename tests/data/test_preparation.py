import dataclasses
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from effllm.data import BPE, Data, Mixture, TextFiles, prepare
from effllm.data import preparation, records, store


def cached(data):
    """What lies in the cache, locks aside."""
    root = Path(data.cache)
    return sorted(path.name for path in root.iterdir() if path.suffix != ".lock") if root.exists() else []


def test_splits_cover_the_corpus_and_never_move(small, dataset):
    prepared = prepare(small)
    train, held_out = ({d.id for d in prepared.documents(split)} for split in ("train", "held_out"))
    assert not train & held_out and len(train | held_out) == 60 and len(train) > 3 * len(held_out) > 0
    assert {d.id for d in dataset.documents("train")} == train
    counts = prepared.manifest["splits"]["train"]
    assert counts["documents"] == len(train)
    assert counts["bytes"] == sum(len(d.text) for d in prepared.documents("train")) == counts["tokens"] - len(train)
    shutil.copy(Path(small.source.path) / "000.txt", Path(small.source.path) / "999.txt")
    assert train <= {d.id for d in prepare(small).documents("train")}


def test_manifest_says_what_the_data_is(small):
    manifest = prepare(small).manifest
    assert manifest["source"] == {"class": "effllm.data.files.TextFiles", "path": small.source.path, "field": "text"}
    assert manifest["tokenizer"] == {"class": "effllm.data.tokenizer.Bytes"}
    assert {"tokenizer.json", "records/dataset_info.json", *manifest["splits"]["train"]["shards"]} <= set(manifest["files"])
    moved = dataclasses.replace(small, cache=small.cache + "2")
    assert {k: prepare(moved).manifest[k] for k in ("fingerprint", "digest")} == {k: manifest[k] for k in ("fingerprint", "digest")}
    text = Path(small.source.path) / "000.txt"
    text.write_text(text.read_text() + "!")
    changed = prepare(small).manifest
    assert changed["fingerprint"] != manifest["fingerprint"] and changed["digest"] != manifest["digest"]


def test_prepared_once_and_anew_when_something_changes(small, monkeypatch):
    first = prepare(small)
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_write", lambda *_: pytest.fail("prepared twice"))
        assert prepare(dataclasses.replace(small, batch_size=2, workers=1)).directory == first.directory
    others = [dataclasses.replace(small, **change) for change in (
        {"sequence_length": 8}, {"held_out": 0.5}, {"tokenizer": BPE(260)}, {"tokenizer": BPE(261)})]
    assert len({prepare(other).directory for other in others} | {first.directory}) == 5


def test_shards_are_a_tfds_data_set(small, monkeypatch):
    monkeypatch.setattr(records, "_SHARD_BYTES", 1000)
    prepared = prepare(small)
    assert len(prepared.manifest["splits"]["train"]["shards"]) > 3
    source = tfds.builder_from_directory(str(prepared.directory / "records")).as_data_source("train")
    assert len(source) == prepared.records("train")
    batches = list(prepared.held_out_batches(batch_size=len(source), split="train"))
    for row in (0, len(source) - 1):
        tokens, segments = (np.frombuffer(source[row][name], "<u2") for name in ("tokens", "segments"))
        assert tokens[:-1].tolist() == batches[0]["tokens"][row].tolist()
        assert segments[:-1].tolist() == batches[0]["segment_ids"][row].tolist()


def test_large_vocabularies_and_records_are_stored_in_four_bytes():
    assert records.Layout.of(1 << 16, 256)[1:] == (np.dtype("<u2"), np.dtype("<u2"))
    assert records.Layout.of((1 << 16) + 1, 1 << 16)[1:] == (np.dtype("<u4"), np.dtype("<u4"))


def test_silent_and_without_network(small, monkeypatch, capfd):
    def refuse(*_, **__):
        raise AssertionError("reached for the network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    next(prepare(small).train_batches(seed=0, batch_size=4))
    assert capfd.readouterr() == ("", "")
    prepare(dataclasses.replace(small, sequence_length=8), progress=True)
    assert "encode train" in capfd.readouterr().err


@pytest.mark.parametrize("broken", ["_spool", "_count_again", "_check_splits"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_interruption_leaves_nothing(small, monkeypatch, broken, error):
    def stop(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(preparation, broken, stop)
        with pytest.raises(type(error)) as caught:
            prepare(small)
    assert cached(small) == []
    if isinstance(error, OSError):
        assert caught.value.errno == errno.ENOSPC and "data.cache" in str(caught.value)
    assert prepare(small).records("train") > 4


KILLED = """
import os, signal, sys
from effllm.data import Data, TextFiles, prepare, preparation
preparation._count_again = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
prepare(Data(source=TextFiles(sys.argv[1]), sequence_length=16, batch_size=4, held_out=0.2, cache=sys.argv[2]))
"""


def test_killed_preparation_is_not_taken_for_whole(small):
    killed = subprocess.run([sys.executable, "-c", KILLED, small.source.path, small.cache], cwd=Path(__file__).parents[2])
    assert killed.returncode == -9 and any(".tmp-" in name for name in cached(small))
    prepared = prepare(small)
    assert cached(small) == [prepared.directory.name]


def test_disk_without_room_is_noticed_before_writing(small, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="No space left.*data.cache"):
        prepare(small)
    assert cached(small) == []


def test_disk_that_fills_while_shards_are_written(small, monkeypatch):
    def fill(self):
        raise RuntimeError("write() failed: No space left on device; writing x; Failed to close chunk_writer")

    monkeypatch.setattr(records.PackedRecords, "download_and_prepare", fill)
    with pytest.raises(OSError, match="No space left.*data.cache") as caught:
        prepare(small)
    assert caught.value.errno == errno.ENOSPC and cached(small) == []


def test_lost_records_are_noticed(small, monkeypatch):
    examples = records.PackedRecords._examples
    monkeypatch.setattr(records.PackedRecords, "_examples", lambda *arguments: list(examples(*arguments))[:-1])
    with pytest.raises(OSError, match=r"\d+ of \d+ train records were stored"):
        prepare(small)
    assert cached(small) == []


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, lambda path: os.truncate(path, path.stat().st_size - 1), Path.unlink])
@pytest.mark.parametrize("name", ["train", "held_out", "tokenizer.json"])
def test_damage_is_named(small, damage, name):
    prepared = prepare(small)
    name = prepared.manifest["splits"][name]["shards"][0] if name != "tokenizer.json" else name
    damage(prepared.directory / name)
    with pytest.raises(ValueError, match=f"{name} is damaged.*delete {prepared.directory}") as caught:
        prepare(small)
    assert "\n" not in str(caught.value)
    shutil.rmtree(prepared.directory)
    assert prepare(small).manifest == prepared.manifest or name == "tokenizer.json"


@pytest.mark.parametrize("content, complaint", [
    (None, "missing or damaged"), ("{", "missing or damaged"), ("[]", "missing or damaged"),
    ('{"files": {}, "format": 0}', "data format 0")])
def test_manifest_damage_is_named(small, content, complaint):
    manifest = prepare(small).directory / store.MANIFEST
    manifest.unlink() if content is None else manifest.write_text(content)
    with pytest.raises(ValueError, match=f"{complaint}.*delete {manifest.parent}"):
        prepare(small)


def test_corpus_shorter_than_a_batch(small):
    tokens = prepare(small).manifest["splits"]["train"]["tokens"]
    with pytest.raises(ValueError, match=rf"{tokens} training tokens.*1000 x 16 needs 16000; lower data.batch_size"):
        prepare(dataclasses.replace(small, batch_size=1000))


def test_one_document_cannot_be_split(tmp_path):
    (tmp_path / "only.txt").write_text("all the text " * 100)
    data = Data(source=TextFiles(str(tmp_path / "only.txt")), cache=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"split is empty: the source has 1 document"):
        prepare(data)
    assert cached(data) == []


def test_text_that_the_tokenizer_refuses_is_named(small, monkeypatch):
    monkeypatch.setattr(preparation, "_ENCODED_AT_ONCE", 1)
    bad = [preparation.Document(f"d{number}", b"good \0 bad" if number == 3 else b"good") for number in range(30)]
    monkeypatch.setattr(TextFiles, "documents", lambda self: iter(bad))
    with pytest.raises(ValueError, match="document d3: the text holds a NUL"):
        prepare(small)


def test_paths_and_lists_from_a_notebook(small):
    named = prepare(dataclasses.replace(small, source=Mixture((small.source,))))
    given = prepare(dataclasses.replace(small, source=Mixture([TextFiles(Path(small.source.path))])))
    assert given.directory == named.directory


def test_domains_that_come_again_are_refused(small, monkeypatch):
    monkeypatch.setattr(TextFiles, "documents", lambda self: (preparation.Document(f"d{n}", b"some text", "ab"[n % 2]) for n in range(30)))
    with pytest.raises(ValueError, match="domain '.', then others, then '.' again"):
        prepare(small)


def test_cache_place(small, monkeypatch, tmp_path):
    monkeypatch.setenv("EFFLLM_CACHE", str(tmp_path / "elsewhere"))
    assert prepare(dataclasses.replace(small, cache=None)).directory.parent == tmp_path / "elsewhere"
    monkeypatch.delenv("EFFLLM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.cache_root(None) == tmp_path / ".cache" / "effllm"


@pytest.mark.parametrize("change", [
    {"sequence_length": 0}, {"batch_size": -1}, {"held_out": 0.0}, {"held_out": 1.0}, {"held_out": float("nan")}, {"workers": -1}])
def test_data_refuses(change):
    (name, value), = change.items()
    with pytest.raises(ValueError, match=f"data.{name}={value}"):
        Data(**change)


def test_data_is_a_value():
    assert Data() == Data() and hash(Data()) == hash(Data())
    assert json.dumps(dataclasses.asdict(Data(tokenizer=BPE(300)))) and Data(tokenizer=BPE(300)) != Data()


CONCURRENT = """
import sys, time
from effllm.data import Data, TextFiles, prepare, preparation
write = preparation._write
preparation._write = lambda *arguments: (print("wrote", flush=True), time.sleep(0.5), write(*arguments))
prepare(Data(source=TextFiles(sys.argv[1]), sequence_length=16, batch_size=4, held_out=0.2, cache=sys.argv[2]))
"""


def test_processes_do_not_prepare_twice(small):
    command = [sys.executable, "-c", CONCURRENT, small.source.path, small.cache]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in running]
    assert sorted(outputs) == ["", "wrote\n"] and [process.returncode for process in running] == [0, 0]
