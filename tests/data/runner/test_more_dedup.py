"""Substrings, SemDeDup and D4 on disk: what the functions say, whoever works at it, and however often it is killed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from effllm.cli import main
from effllm.data import D4, HashedNgrams, Semantic, Substring
from effllm.data.dedup import repeated_spans, without
from effllm.data.dedup.semdedup import d4, semdedup
from effllm.data.runner import cut_corpus, render_run, select_corpus
from tests.data.dedup.texts import near_duplicates
from tests.data.runner.test_corpora import rows_of

BASE = near_duplicates(60, seed=4, change=0.03)
NOTICE = "This notice, which says nothing at all — naïvely —, stands at the head of every tenth file and is repeated word by word. "
TEXTS = [NOTICE + text if i % 10 == 0 else text for i, text in enumerate(BASE)] + [NOTICE, "", "…"]


def effllm(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("more")
    for number in range(4):
        rows = [{"id": f"doc{i}", "text": TEXTS[i], "kept": i} for i in range(number, len(TEXTS), 4) if TEXTS[i]]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def in_order(folder):
    return [TEXTS[i] for number in range(4) for i in range(number, len(TEXTS), 4) if TEXTS[i]]


@pytest.mark.parametrize("workers,shard_bytes", [(1, 1), (2, 1), (1, 1 << 30)])
def test_substrings_are_cut_as_the_function_says(corpus, tmp_path, workers, shard_bytes):
    texts = [text.encode() for text in in_order(corpus)]
    expected = [without(text, spans).decode() for text, spans in zip(texts, repeated_spans(texts, 60))]
    manifest = cut_corpus(str(corpus), tmp_path / "out", Substring(length=60), workers=workers, shard_bytes=shard_bytes)
    rows = rows_of(tmp_path / "out")
    assert [row["text"] for row in rows] == [text for text in expected if text.strip()] and {"id", "text", "kept"} == set(rows[0])
    empty = sum(not text.strip() for text in expected)
    assert manifest["in"] == len(texts) and manifest["dropped"] == {"only_repeats": empty} and manifest["out"] == len(texts) - empty and empty
    assert manifest["cut"]["bytes"] == sum(map(len, texts)) - sum(len(text.encode()) for text in expected) > 400
    assert sum(NOTICE.strip() in row["text"] for row in rows) == 1
    page = render_run(tmp_path / "out")
    assert "repeats_cut" in page and "only_repeats" in page and "<del>" in page


def vectors(texts):
    embedding = HashedNgrams()
    embed = embedding.function(embedding.count(texts))
    return np.stack([embed(text) for text in texts])


def test_hashed_ngrams_tell_near_from_far_and_are_tfidf():
    x_de = vectors(BASE)
    x_de /= np.linalg.norm(x_de, axis=1, keepdims=True)
    cosine = x_de @ x_de.T
    near = [cosine[i, i - 1] for i in range(2, 60, 3)]
    assert min(near) > 0.65 and np.abs(cosine[0, 5:]).max() < 0.5
    wide = HashedNgrams(order=1, dimension=1 << 14, bits=14)
    a, b = (wide.function(wide.count(["a a b", "a c"]))(text) for text in ("a a b", "a c"))
    idf = np.log1p([2 / 2, 2 / 1])
    assert a @ b == pytest.approx((1 + np.log(2)) * idf[0] * idf[0], rel=1e-5)
    assert np.linalg.norm(a) == pytest.approx(np.hypot((1 + np.log(2)) * idf[0], idf[1]), rel=1e-5) and not wide.function(wide.count(["a"]))("").any()


@pytest.mark.parametrize("method,function", [
    (Semantic(epsilon=0.2, clusters=4), lambda x: semdedup(x, clusters=4, epsilon=0.2)), (Semantic(epsilon=0.2), lambda x: semdedup(x, clusters=8, epsilon=0.2)),
    (D4(epsilon=0.2, clusters=4, keep=0.5), lambda x: d4(x, clusters=4, epsilon=0.2, keep=0.5)),
], ids=["Semantic of 4 clusters", "Semantic", "D4"])
def test_meaning_is_judged_as_the_functions_say(corpus, tmp_path, method, function):
    texts = in_order(corpus)
    x_de = vectors(texts)
    assert (np.linalg.norm(x_de, axis=1) > 0).all()
    keep_d = function(x_de)
    manifest = select_corpus(str(corpus), tmp_path / "out", method, workers=2, shard_bytes=1, command="dedup")
    assert [row["text"] for row in rows_of(tmp_path / "out")] == [text for text, keep in zip(texts, keep_d) if keep]
    assert manifest["dropped"] == {method.reason: int((~keep_d).sum())} and 10 < (~keep_d).sum() < 50
    assert manifest["plan"]["command"] == "dedup" and method.reason in render_run(tmp_path / "out")


def test_texts_without_a_place_stay():
    score_de = np.array([[0.0, 0], [1, 0], [1, 1e-6], [0, 0]], np.float32)
    assert Semantic(clusters=1).choose(score_de).tolist() == [True, True, False, True] and Semantic().choose(np.zeros((2, 3), np.float32)).all()


KILLED = """
import sys, time
from effllm.data import {method}
from effllm.data.runner import cutting, selecting, work
count = 0
def counted(function):
    def run(*arguments):
        global count
        count += 1
        if count > int(sys.argv[3]):
            print("here", flush=True)
            time.sleep(60)
        return function(*arguments)
    return run
work.write_json = counted(work.write_json)
{call}(sys.argv[1], sys.argv[2], {method}(), shard_bytes=1)
"""


@pytest.mark.parametrize("method,call,function", [("Substring", "cutting.cut_corpus", cut_corpus), ("Semantic", "selecting.select_corpus", select_corpus)])
def test_a_killed_run_continues_to_the_same_bytes(corpus, tmp_path, method, call, function):
    value = {"Substring": Substring, "Semantic": Semantic}[method]()
    whole = function(str(corpus), tmp_path / "whole", value, shard_bytes=1)
    for after in (2, 4):
        program = KILLED.format(method=method, call=call)
        process = subprocess.Popen([sys.executable, "-c", program, str(corpus), str(tmp_path / "out"), str(after)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
        reached = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert reached and not (tmp_path / "out" / "manifest.json").exists()
    assert function(str(corpus), tmp_path / "out", value, shard_bytes=1) == whole and not (tmp_path / "out" / ".work").exists()


def test_the_command_line(corpus, tmp_path):
    told = effllm("data", "dedup", corpus, tmp_path / "cut", "--by", "Substring(length=60)", "--quiet", "--workers", 1)
    assert told.exit_code == 0 and "cut out:" in told.stdout, told.stderr
    told = effllm("data", "dedup", corpus, tmp_path / "sem", "--by", "Semantic(HashedNgrams(order=1),epsilon=0.1)", "--quiet", "--json", "--workers", 1)
    assert json.loads(told.stdout)["dropped"]["duplicate_in_meaning"] > 5, told.stderr
    for by, more, words in (
        ("Substring(length=0)", (), "positive number"), ("Semantic(epsilon=3)", (), "epsilon=3"), ("D4(keep=0)", (), "keep=0"),
        ("Semantic()", ("--score-field", "kept"), "leave the option out"), ("Substring(max_mb=1)", (), ""),
    ):
        told = effllm("data", "dedup", corpus, tmp_path / "bad", "--by", by, "--quiet", "--workers", 1, *more)
        assert (told.exit_code == 2 and words in told.stderr and told.stderr.count("\n") == 1) or not words, told.stderr


def test_a_corpus_too_large_for_a_suffix_array_is_refused(tmp_path):
    (tmp_path / "large.txt").write_text("words " * 200_000)
    with pytest.raises(ValueError, match="more than 1 MB of text"):
        cut_corpus(str(tmp_path / "large.txt"), tmp_path / "out", Substring(max_mb=1))


def test_a_run_of_ours_embeds(corpus, tiny_config, tmp_path):
    folder = tiny_config(tmp_path / "run", steps=3)
    assert effllm("train", folder / "config.py", "--run-dir", folder / "trained", "--quiet").exit_code == 0
    told = effllm("data", "dedup", corpus, tmp_path / "out", "--by", f"Semantic(HiddenStates({str(folder / 'trained')!r}),epsilon=1e-5)", "--quiet", "--json", "--workers", 1)
    assert told.exit_code == 0, told.stderr
    scores = np.concatenate([np.load(path) for path in sorted((tmp_path / "out" / "scores").glob("*.npy"))])
    assert scores.shape == (len(in_order(corpus)), 32) and len(np.unique(scores, axis=0)) > 30
