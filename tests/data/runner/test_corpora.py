"""Corpora on disk: what goes in comes out or is counted, whoever works at it, and however often it is killed."""

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
import zstandard

from effllm.data import TFDS, FieldShare, Near, NgramModel, PerplexityShare, RandomShare, TextFiles, TowardTarget
from effllm.data.dedup import MinHash
from effllm.data.dedup.keyed import Exact, NearBits
from effllm.data.filters import PII, Length
from effllm.data.runner import FieldScore, Reading, corpus_stats, dedup_corpus, filter_corpus, input_files, render_run, select_corpus, shards
from effllm.data.runner import deduping, stats
from effllm.data.runner.read import Record
from effllm.data.runner.work import work
from effllm.data.selection import DSIR
from tests.data.dedup.texts import near_duplicates

TEXTS = near_duplicates(240, seed=2, change=0.006)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """240 documents in eight files of four kinds; every third is near the one before."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(8):
        rows = [{"id": f"doc{i}", "text": TEXTS[i], "score": i % 5, "source": {"file": number}} for i in range(number * 30, number * 30 + 30)]
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        if number < 3:
            (folder / f"{number}.jsonl").write_bytes(lines)
        elif number < 5:
            (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(lines))
        elif number < 7:
            (folder / f"{number}.jsonl.zst").write_bytes(zstandard.compress(lines))
        else:
            (folder / "7").mkdir()
            for row in rows:
                (folder / "7" / f"{row['id']}.txt").write_text(row["text"])
    return folder


def rows_of(folder):
    return [json.loads(line) for path in sorted(Path(folder).glob("part-*.zst")) for line in zstandard.open(path, "rt").read().splitlines()]


def test_prepare_keeps_everything_and_training_reads_it(corpus, tmp_path):
    manifest = filter_corpus(str(corpus), tmp_path / "out", ())
    rows = rows_of(tmp_path / "out")
    assert [row["text"] for row in rows] == TEXTS
    assert [row["id"] for row in rows[:210]] == [f"doc{i}" for i in range(210)] and rows[210]["id"] == "7/doc210.txt"
    assert rows[5]["score"] == 0 and rows[5]["source"] == {"file": 0} and "score" not in rows[220]
    assert (manifest["in"], manifest["out"], manifest["dropped"]) == (240, 240, {})
    assert [document.text.decode() for document in TextFiles(str(tmp_path / "out")).documents()] == TEXTS
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dropped", "manifest.json", "part-00000.jsonl.zst"]


@pytest.mark.parametrize("workers", [1, 2])
def test_filter_counts_by_reason(corpus, tmp_path, workers):
    rules = (Length(min_words=70), Length(max_words=110), PII())
    manifest = filter_corpus(str(corpus), tmp_path / "out", rules, workers=workers, shard_bytes=20_000)
    words = [len(text.split()) for text in TEXTS]
    assert manifest["dropped"] == {"Length.few_words": sum(w < 70 for w in words), "Length.many_words": sum(w > 110 for w in words)}
    assert manifest["in"] == 240 == manifest["out"] + sum(manifest["dropped"].values())
    assert [row["text"] for row in rows_of(tmp_path / "out")] == [text for text, w in zip(TEXTS, words) if 70 <= w <= 110]
    assert len(manifest["parts"]) > 3 and sum(part["documents"] for part in manifest["parts"].values()) == manifest["out"]


@pytest.mark.parametrize("shard_bytes", [1, 30_000, 1 << 30])
@pytest.mark.parametrize("score", ["length", "field"])
def test_dedup_on_disk_is_dedup_in_memory(corpus, tmp_path, shard_bytes, score):
    source, texts = (str(corpus), TEXTS) if score == "length" else (str(corpus / "*.jsonl*"), TEXTS[:210])
    chosen, score_d = (deduping.length, None) if score == "length" else (FieldScore("score"), np.arange(210) % 5)
    manifest = dedup_corpus(source, tmp_path / "out", Near(threshold=0.7), score=chosen, shard_bytes=shard_bytes)
    found = MinHash(threshold=0.7)([text.encode() for text in texts], score_d)
    assert 20 < (~found.keep_d).sum() < 80
    assert [row["text"] for row in rows_of(tmp_path / "out")] == [text for text, keep in zip(texts, found.keep_d) if keep]
    sizes = np.unique(found.label_d, return_counts=True)[1]
    assert manifest["clusters"] == {"2": int((sizes == 2).sum())} and manifest["dropped"] == {"duplicate": int((~found.keep_d).sum())}
    page = render_run(tmp_path / "out")
    assert "similarity 0." in page and "<del>" in page and f"{len(texts)} documents in" in page


def test_ranges_of_keys_change_nothing(corpus, tmp_path, monkeypatch):
    whole = dedup_corpus(str(corpus), tmp_path / "whole", Near(threshold=0.7), shard_bytes=1)
    monkeypatch.setattr(deduping, "_RANGE", 50)
    monkeypatch.setattr(deduping, "_PAIRS", 7)
    cut = dedup_corpus(str(corpus), tmp_path / "cut", Near(threshold=0.7), shard_bytes=1)
    assert whole["parts"] == cut["parts"] and whole["clusters"] == cut["clusters"]


@pytest.mark.parametrize("method,expected", [
    (Exact(), ["One two.", "one  TWO!", "three"]), (Exact(normalised=True), ["one  TWO!", "three"]), (NearBits(distance=0), ["one  TWO!", "three"]),
], ids=["exact", "normalised", "bits"])  # fmt: skip
def test_other_methods(tmp_path, method, expected):
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("One two.", "one  TWO!", "three", "One two.")))
    dedup_corpus(str(tmp_path / "in.jsonl"), tmp_path / "out", method)
    assert [row["text"] for row in rows_of(tmp_path / "out")] == expected
    with pytest.raises(ValueError, match="distance=16"):
        NearBits(distance=16)


@pytest.mark.parametrize("form", ["array_record", "parquet"])
def test_other_formats_come_back(corpus, tmp_path, form):
    source = str(corpus / "0.jsonl")
    if form == "parquet":
        import pyarrow
        import pyarrow.parquet

        rows = [json.loads(line) for line in (corpus / "0.jsonl").read_text().splitlines()]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=7)
        source = str(tmp_path / "rows.parquet")
    else:
        filter_corpus(source, tmp_path / "records", (), form="array_record")
        source = str(tmp_path / "records")
    filter_corpus(source, tmp_path / "back", ())
    assert rows_of(tmp_path / "back") == [json.loads(line) for line in (corpus / "0.jsonl").read_text().splitlines()]


def test_stats(corpus):
    found = corpus_stats(str(corpus))
    assert (found["documents"], found["files"], found["unreadable"]) == (240, 37, 0)
    assert found["words"] == sum(len(text.split()) for text in TEXTS) and found["bytes"] == sum(map(len, TEXTS))
    assert found["exact_duplicates"] == 240 - len(set(TEXTS)) and found["document_bytes"]["100%"] == max(map(len, TEXTS))


def test_stats_hold_four_bytes_a_document(corpus, monkeypatch):
    count = 30_000
    monkeypatch.setattr(stats, "Bloom", lambda capacity: type("Never", (), {"add": lambda self, keys: [False]})())
    monkeypatch.setattr(stats, "records", lambda *_: (Record("x", "a" * (300 + i % 7)) for i in range(count)))
    tracemalloc.start()
    found = corpus_stats(str(corpus / "0.jsonl"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["documents"] == count and peak < 16 * count


def test_shards_take_small_files_together(corpus):
    files = input_files(str(corpus))
    assert [len(group) for group in shards(files, 1)] == [1] * 37 and len(shards(files, 1 << 30)) == 1
    assert [file.name for group in shards(files, 30_000) for file in group] == [file.name for file in files]


KILLED = """
import sys, time
from effllm.data import Near
from effllm.data.runner import deduping, work
source, out, after = sys.argv[1], sys.argv[2], int(sys.argv[3])
count = 0
def counted(function):
    def run(*arguments):
        global count
        count += 1
        if count > after:
            print("here", flush=True)
            time.sleep(60)
        return function(*arguments)
    return run
work.write_json = counted(work.write_json)
deduping.write_array = counted(deduping.write_array)
deduping.dedup_corpus(source, out, Near(threshold=0.7), shard_bytes=1)
"""


def test_a_killed_dedup_continues_to_the_same_bytes(corpus, tmp_path):
    (tmp_path / "in").mkdir()
    for path in sorted(corpus.glob("*.jsonl*")):
        os.symlink(path, tmp_path / "in" / path.name)
    source, out = str(tmp_path / "in"), tmp_path / "out"
    whole = dedup_corpus(source, tmp_path / "whole", Near(threshold=0.7), shard_bytes=1)
    done = []
    for after in (3, 20, 30, 30, 20):
        process = subprocess.Popen([sys.executable, "-c", KILLED, source, str(out), str(after)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
        reached = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert reached, "the run ended before it was killed"
        assert not (out / "manifest.json").exists()
        done.append(len(list((out / ".work").glob("*/*.json"))))
    assert done == sorted(done) and done[-1] > 2 * done[1]
    manifest = dedup_corpus(source, out, Near(threshold=0.7), shard_bytes=1)
    assert manifest == whole and not list(out.rglob("*.tmp-*")) and not (out / ".work").exists()


def test_a_finished_task_is_not_done_again(corpus, tmp_path, monkeypatch):
    calls, sign = [], deduping.sign
    monkeypatch.setattr(deduping, "sign", lambda number, *rest: calls.append(number) or sign(number, *rest))
    monkeypatch.setattr(deduping, "pair", lambda *task: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            dedup_corpus(str(corpus / "*.jsonl"), tmp_path / "out", Near(), shard_bytes=1)
    assert calls == [0, 1, 2]


def test_a_killed_worker_is_said_and_the_run_continues(tmp_path):
    (tmp_path / "in.txt").write_text("some text")
    files = input_files(str(tmp_path / "in.txt"))
    with pytest.raises(OSError, match="a worker was killed .*the same command continues"), work(tmp_path / "out", "filter", "in", files, {}, workers=2) as run:
        run.map("stage", os._exit, [(9,), (9,)])
    with work(tmp_path / "out", "filter", "in", files, {}) as run:
        assert run.map("stage", dict, [((),), ((),)]) == [{}, {}]


def test_pairs_of_more_shards_than_files_may_be_open(tmp_path):
    shards = 200
    for folder in ("evidence", "similar"):
        (tmp_path / folder).mkdir()
    for number in range(shards):
        np.save(tmp_path / "evidence" / f"data-{number:05d}.npy", np.array([1, 2, 3 + number], np.uint32))
        np.save(tmp_path / "evidence" / f"index-{number:05d}.npy", np.array([[0, -1], [0, 3]]))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (240, hard))
    try:
        pairs = np.stack([np.zeros(shards - 1, int), np.arange(1, shards)], 1)
        assert deduping.verify(0, pairs, Near(threshold=0.5), str(tmp_path), np.arange(shards + 1)) == {"verified": shards - 1}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_examples_of_many_pairs_take_a_few_bytes_a_pair():
    half = 100_000
    label_d, keep_d = np.tile(np.arange(half), 2), np.arange(2 * half) < half
    pairs = np.stack([np.arange(half), np.arange(half) + half], 1)
    tracemalloc.start()
    found = deduping._partners(label_d, keep_d, pairs, np.full(half, 0.9), np.array([0, half, 2 * half]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[1][:2] == ((0, (0, 0), 0.9), (1, (0, 1), 0.9)) and found[0][:1] == ((0, None, None),)
    assert peak < 40 * half


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """Four times the text, the same peak, within a fifth."""
    peaks = []
    for files in (4, 16):
        folder = tmp_path / f"in{files}"
        folder.mkdir()
        for number in range(files):
            words = np.random.default_rng(number).integers(0, 50_000, (300, 1000))
            (folder / f"{number:02d}.jsonl").write_text("".join(json.dumps({"text": " ".join(map(str, row))}) + "\n" for row in words.tolist()))
        program = (
            "import sys, re\nfrom effllm.data import Near\nfrom effllm.data.runner import dedup_corpus\n"
            "dedup_corpus(sys.argv[1], sys.argv[2], Near(), shard_bytes=1)\n"
            "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
        )
        done = subprocess.run([sys.executable, "-c", program, str(folder), str(tmp_path / f"out{files}")], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.2 * peaks[0], peaks


class Verses(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"verse": tfds.features.Text()}), disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": enumerate({"verse": verse} for verse in ("one", "zwö", " ", "four", b"f\xff", b"\0"))}

    def _generate_examples(self):
        raise TypeError("the examples are in _split_generators")


def test_tfds_comes_in(tmp_path, monkeypatch):
    tfds.disable_progress_bar()
    Verses(data_dir=str(tmp_path / "tfds"), file_format="array_record").download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    with pytest.raises(ValueError, match=r"tfds:verses/1.2.0/train:4 field 'verse' is not UTF-8 \(byte 1\)"):
        filter_corpus("tfds:verses/train", tmp_path / "stop", (), reading=Reading(field="verse"))
    with pytest.raises(ValueError, match="verses/1.2.0/train:4 field 'verse' is binary or not UTF-8"):
        list(TFDS("verses", field="verse").documents())
    assert filter_corpus("tfds:verses/train", tmp_path / "out", (), reading=Reading(field="verse", skip=2))["dropped"] == {"unreadable": 2}
    assert rows_of(tmp_path / "out") == [{"id": f"verses/1.2.0/train:{i}", "verse": verse} for i, verse in ((0, "one"), (1, "zwö"), (3, "four"))]
    with pytest.raises(ValueError, match="tfds:verses names no split"):
        input_files("tfds:verses")


def test_select_keeps_what_the_functions_choose(corpus, tmp_path):
    source, texts = str(corpus / "*.jsonl*"), TEXTS[:210]
    (tmp_path / "good.txt").write_text("\n".join(texts[:30]))
    model = NgramModel.fit((tmp_path / "good.txt").read_bytes())
    scores = {
        "p": (PerplexityShare(str(tmp_path / "good.txt"), 0.25, "middle"), [model(text) for text in texts]),
        "f": (FieldShare("score", 0.5, "top"), [i % 5 for i in range(210)]),
        "t": (TowardTarget(str(tmp_path / "good.txt"), 0.2, buckets=300), DSIR.fit(texts[:30], texts, buckets=300).log_weights(texts)),
    }
    for name, (method, expected) in scores.items():
        manifest = select_corpus(source, tmp_path / name, method, shard_bytes=1)
        found = np.concatenate([np.load(path) for path in sorted((tmp_path / name / "scores").glob("*.npy"))])
        assert found == pytest.approx(expected, rel=1e-9)
        kept = [text for text, keep in zip(texts, method.choose(found)) if keep]
        assert [row["text"] for row in rows_of(tmp_path / name)] == kept and len(kept) == round(method.keep * 210)
        assert manifest["dropped"] == {"not_selected": 210 - len(kept)} and "not_selected" in render_run(tmp_path / name)
    together = select_corpus(source, tmp_path / "workers", scores["f"][0], shard_bytes=1, workers=2)
    assert together["parts"] == json.loads((tmp_path / "f" / "manifest.json").read_text())["parts"]
    chosen = scores["t"][0].choose(np.array(scores["t"][1]))
    assert np.mean(np.array(scores["t"][1])[chosen]) > np.mean(scores["t"][1])


def test_shares_refuse():
    for make in (lambda: RandomShare(0), lambda: FieldShare("x", 1.5, "top"), lambda: PerplexityShare(len, -1, "top")):
        with pytest.raises(ValueError, match="give a share"):
            make()
    with pytest.raises(FileNotFoundError, match="none.txt"):
        TowardTarget("none.txt", 0.5)
    never = TowardTarget(__file__, 1.0).choose(np.array([0.0, -np.inf, 3]))
    assert never.tolist() == [True, False, True]
    random = RandomShare(0.5, seed=1)
    assert random.choose(np.zeros(10)).sum() == 5 and np.array_equal(random.choose(np.zeros(10)), random.choose(np.zeros(10)))
    assert not np.array_equal(random.choose(np.zeros(100)), RandomShare(0.5, seed=2).choose(np.zeros(100)))
