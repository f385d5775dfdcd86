"""Bad records and folders: named by file and line, counted, passed over only where that is allowed, never half-written."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard
from click.testing import CliRunner

from effllm.cli import main
from effllm.data import TowardTarget
from effllm.data.filters import Blocklist, Length, Uncontaminated
from effllm.data.runner import FieldScore, Reading, dedup_corpus, deduping, filter_corpus, render_run, select_corpus
from effllm.data.dedup.keyed import Exact


def effllm(*args):
    result = CliRunner().invoke(main, [str(a) for a in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr, result.stdout


GOOD = b'{"text": "a good line"}\n'
BAD = {
    "utf-8": (b'{"text": "\xff"}\n', "not UTF-8 (byte 10)"),
    "not json": (b"{'text': 1}\n", "is not JSON"),
    "not an object": (b'["text"]\n', "no string field 'text'"),
    "no field": (b'{"body": "x"}\n', "no string field 'text'"),
    "not a string": (b'{"text": 3}\n', "no string field 'text'"),
    "empty": (b'{"text": " "}\n', "field 'text' is empty"),
    "blank line": (b"\n", "is empty"),
    "binary": (b'{"text": "a\\u0000b"}\n', "is binary"),
    "surrogate": (b'{"text": "\\ud800"}\n', "half a surrogate pair"),
    "deep": (b"[" * 100_000 + b"\n", "is not JSON"),
    "digits": (b'{"text": "a", "n": ' + b"1" * 5000 + b"}\n", "too many digits"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_and_passed_over_only_if_allowed(tmp_path, name):
    line, words = BAD[name]
    (tmp_path / "in.jsonl").write_bytes(GOOD + line + GOOD)
    code, err, _ = effllm("data", "filter", tmp_path / "in.jsonl", tmp_path / "stop", "--filter", "Length", "--quiet")
    assert code == 2 and err.count("\n") == 1 and "in.jsonl:2" in err and words in err, err
    assert not (tmp_path / "stop" / "manifest.json").exists() and not list((tmp_path / "stop").glob("part*"))
    code, _, out = effllm("data", "filter", tmp_path / "in.jsonl", tmp_path / "skip", "--filter", "Length", "--quiet", "--json", "--on-error", "skip:1")
    found = json.loads(out)
    assert code == 0 and (found["in"], found["out"], found["dropped"]) == (3, 2, {"unreadable": 1}) and "in.jsonl:2" in found["skipped"][0]
    (tmp_path / "in.jsonl").write_bytes(GOOD + line * 2 + GOOD)
    code, err, _ = effllm("data", "filter", tmp_path / "in.jsonl", tmp_path / "more", "--filter", "Length", "--quiet", "--on-error", "skip:1")
    assert code == 2 and "more than 1 bad record" in err and "in.jsonl:3" in err


def test_half_a_surrogate_pair_beside_the_text_is_kept(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"id": "\\udc00", "text": "a good line", "title": "\\ud800 \\u00e9"}\n')
    filter_corpus(str(tmp_path / "in.jsonl"), tmp_path / "out", ())
    assert json.loads(zstandard.open(tmp_path / "out" / "part-00000.jsonl.zst").read()) == {"id": "\udc00", "text": "a good line", "title": "\ud800 \xe9"}


def test_the_allowance_holds_for_all_shards_together(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.jsonl").write_bytes(GOOD + b"{\n")
    assert filter_corpus(str(tmp_path / "*.jsonl"), tmp_path / "four", (), reading=Reading(skip=4), shard_bytes=1)["dropped"] == {"unreadable": 4}
    with pytest.raises(ValueError, match="more than 3 bad record.*3.jsonl:2"):
        filter_corpus(str(tmp_path / "*.jsonl"), tmp_path / "three", (), reading=Reading(skip=3), shard_bytes=1)
    found = dedup_corpus(str(tmp_path / "*.jsonl"), tmp_path / "dedup", Exact(), reading=Reading(skip=4), shard_bytes=1)
    assert found["dropped"] == {"duplicate": 3, "unreadable": 4} and found["in"] == 8


@pytest.mark.parametrize("cut", [30, -1])
def test_a_broken_gzip(tmp_path, cut):
    whole = gzip.compress(GOOD * 3 + b"x" * 3)
    (tmp_path / "in.jsonl.gz").write_bytes(whole[:cut])
    code, err, _ = effllm("data", "prepare", tmp_path / "in.jsonl.gz", tmp_path / "out", "--quiet")
    assert code == 2 and "in.jsonl.gz is broken gzip" in err and err.count("\n") == 1
    (tmp_path / "bad.txt.gz").write_bytes(b"no gzip at all")
    assert "bad.txt.gz is broken gzip" in effllm("data", "prepare", tmp_path / "bad.txt.gz", tmp_path / "out2", "--quiet")[1]
    assert filter_corpus(str(tmp_path / "bad.txt.gz"), tmp_path / "out3", (), reading=Reading(skip=1))["dropped"] == {"unreadable": 1}


def test_a_hundred_megabytes_in_one_line(tmp_path):
    with (tmp_path / "in.jsonl").open("wb") as file:
        file.write(GOOD + b'{"text": "')
        for _ in range(100):
            file.write(b"long " * 200_000)
        file.write(b'"}\n' + GOOD)
    code, err, _ = effllm("data", "filter", tmp_path / "in.jsonl", tmp_path / "out", "--filter", "Length", "--quiet")
    assert code == 2 and "in.jsonl:2 is longer than 67,108,864 bytes" in err
    found = filter_corpus(str(tmp_path / "in.jsonl"), tmp_path / "skip", (Length(),), reading=Reading(skip=1))
    assert (found["in"], found["out"]) == (3, 2)
    (tmp_path / "in.txt").write_bytes(b"x" * 101)
    for limit, kept in ((101, 1), (100, 0)):
        assert filter_corpus(str(tmp_path / "in.txt"), tmp_path / f"{limit}", (), reading=Reading(skip=1, max_bytes=limit))["out"] == kept
    (tmp_path / "line.jsonl").write_bytes(GOOD)
    for limit, kept in ((len(GOOD) - 1, 1), (len(GOOD) - 2, 0)):
        assert filter_corpus(str(tmp_path / "line.jsonl"), tmp_path / f"line{limit}", (), reading=Reading(skip=1, max_bytes=limit))["out"] == kept


@pytest.mark.parametrize("content", ["parquet", "array_record"])
def test_damaged_tables(tmp_path, content):
    (tmp_path / f"bad.{content}").write_bytes(b"PAR1 nothing of the kind" * 10)
    code, err, _ = effllm("data", "prepare", tmp_path / f"bad.{content}", tmp_path / "out", "--quiet")
    assert code == 2 and f"bad.{content}" in err and err.count("\n") == 1, err


def test_a_parquet_without_the_column(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"], "n": [1]}), tmp_path / "t.parquet")
    assert "no column 'text'; it has body, n" in effllm("data", "prepare", tmp_path / "t.parquet", tmp_path / "out", "--quiet")[1]
    assert effllm("data", "prepare", tmp_path / "t.parquet", tmp_path / "body", "--field", "body", "--quiet")[0] == 0


def test_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "picture.png").write_bytes(b"x")
    (tmp_path / "in.txt").write_text("some text")
    for source, words in (("empty", "empty holds no text"), ("other", "other holds no text"), ("none", "none does not exist"), ("x*", "x* holds no text")):
        code, err, _ = effllm("data", "prepare", tmp_path / source, tmp_path / "out", "--quiet")
        assert code == 2 and words in err and err.count("\n") == 1
        assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("mine")
    for out in (tmp_path / "full", tmp_path / "in.txt"):
        code, err, _ = effllm("data", "prepare", tmp_path / "in.txt", out, "--quiet")
        assert code == 2 and "exists: give another output folder" in err
    assert (tmp_path / "full" / "thesis.doc").read_text() == "mine"
    code, err, _ = effllm("data", "prepare", tmp_path / "full", tmp_path / "full" / "out", "--quiet")
    assert code == 2 and "holds no text" in err
    (tmp_path / "full" / "a.txt").write_text("text")
    code, err, _ = effllm("data", "prepare", tmp_path / "full", tmp_path / "full" / "out", "--quiet")
    assert code == 2 and "lies inside" in err and not (tmp_path / "full" / "out").exists()
    assert effllm("data", "prepare", tmp_path / "in.txt", tmp_path / "done", "--quiet")[0] == 0
    code, err, _ = effllm("data", "prepare", tmp_path / "in.txt", tmp_path / "done", "--quiet")
    assert code == 2 and "exists and holds a finished run" in err


def test_an_unfinished_run_of_other_options_or_another_process(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(GOOD + b"{\n")
    with pytest.raises(ValueError):
        filter_corpus(str(tmp_path / "in.jsonl"), tmp_path / "out", ())
    with pytest.raises(ValueError, match="unfinished run with another options"):
        filter_corpus(str(tmp_path / "in.jsonl"), tmp_path / "out", (Length(),))
    with pytest.raises(ValueError, match="unfinished run with another command"):
        dedup_corpus(str(tmp_path / "in.jsonl"), tmp_path / "out", Exact())
    import fcntl

    with (tmp_path / "out" / ".work" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process is at work"):
            filter_corpus(str(tmp_path / "in.jsonl"), tmp_path / "out", ())
    (tmp_path / "in.jsonl").write_bytes(GOOD * 3)
    with pytest.raises(ValueError, match="unfinished run with another input"):
        filter_corpus(str(tmp_path / "in.jsonl"), tmp_path / "out", ())


@pytest.mark.parametrize("method", [Blocklist, Uncontaminated, TowardTarget], ids=lambda method: method.__name__)
def test_an_unfinished_run_whose_method_reads_another_file(tmp_path, method):
    field, more = {Blocklist: ("path", {}), Uncontaminated: ("evaluation", {}), TowardTarget: ("target", {"keep": 0.5})}[method]
    (tmp_path / "in.jsonl").write_bytes(GOOD + b"{\n")

    def start():
        subject = method(**{field: str(tmp_path / "file.txt")}, **more)
        return select_corpus(*place, subject) if method is TowardTarget else filter_corpus(*place, (subject,))

    place = str(tmp_path / "in.jsonl"), tmp_path / "out"
    for text, words in (("one", "is not JSON"), ("one", "is not JSON"), ("two", "unfinished run with another options")):
        (tmp_path / "file.txt").write_text(text)
        with pytest.raises(ValueError, match=words):
            start()


def test_input_that_changes_between_two_passes(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    lines = [json.dumps({"text": text}) + "\n" for text in ("one", "two", "two", "three", "four")]
    (tmp_path / "in" / "a.jsonl").write_text("".join(lines))
    write = deduping.write_kept

    def late(*task):
        (tmp_path / "in" / "a.jsonl").write_text("".join(lines[1:]))
        return write(*task)

    monkeypatch.setattr(deduping, "write_kept", late)
    with pytest.raises(ValueError, match="a.jsonl changed while it was read"):
        dedup_corpus(str(tmp_path / "in"), tmp_path / "out", Exact())
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_dedup_that_ended_between_its_examples_and_their_parts_is_reported(tmp_path, monkeypatch):
    (tmp_path / "in.jsonl").write_bytes(GOOD * 2)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: 1 / 0 if path.parent.name == "dropped" and path.suffix == ".json" else None)
        dedup_corpus(str(tmp_path / "in.jsonl"), tmp_path / "out", Exact())
    dedup_corpus(str(tmp_path / "in.jsonl"), tmp_path / "out", Exact())
    assert "in.jsonl:2" in render_run(tmp_path / "out")


@pytest.mark.parametrize("args,words", [
    (["filter", "--filter", "GopherQualty()"], "did you mean GopherQuality"), (["filter", "--filter", "Length(min_word=3)"], "min_words"),
    (["filter", "--filter", "Length(min_words='x')"], "min_words is int"), (["filter", "--filter", "Bytes()"], "CommandLine.filter is Filter"),
    (["dedup", "--by", "Near(threshold=2)"], "threshold=2"), (["dedup", "--by", "Length()"], "CommandLine.by is Keyed"), (["dedup", "--on-error", "go on"], "stop nor skip:N"),
    (["dedup", "--score-field", "stars", "--quiet"], "no numeric field 'stars'"), (["filter", "--filter", "Quality(score='none.npz')"], "none.npz"),
    (["select", "--share", "RandomShare(keep=2)"], "keep=2"), (["select", "--share", "RandomShare()"], "needs keep"), (["select"], "--share"),
], ids=str)  # fmt: skip
def test_bad_arguments(tmp_path, args, words):
    (tmp_path / "in.jsonl").write_bytes(GOOD)
    code, err, _ = effllm("data", args[0], tmp_path / "in.jsonl", tmp_path / "out", *args[1:])
    assert code == 2 and words in err, err


def test_a_report_needs_a_finished_run(tmp_path):
    assert "holds no finished run" in effllm("data", "report", tmp_path, tmp_path / "r.html")[1]


@pytest.mark.parametrize("score", [b"true", b"NaN", b'"3"'])
def test_a_score_that_is_missing_stops(tmp_path, score):
    (tmp_path / "in.jsonl").write_bytes(b'{"id": 7, "text": "x", "score": ' + score + b"}\n")
    with pytest.raises(ValueError, match="record 7 has no numeric field 'score'"):
        dedup_corpus(str(tmp_path / "in.jsonl"), tmp_path / "out", Exact(), score=FieldScore("score"))


def test_the_verbs_say_what_they_did(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(GOOD + GOOD + b'{"id": "z", "text": "another", "k": 1}\n')
    code, _, out = effllm("data", "dedup", tmp_path / "in.jsonl", tmp_path / "out", "--by", "Exact", "--quiet")
    assert code == 0 and "3 documents in, 2 out" in out and "duplicate" in out
    assert effllm("data", "report", tmp_path / "out", tmp_path / "r.html") == (0, "", f"{tmp_path / 'r.html'}\n") and "33.33 %" in (tmp_path / "r.html").read_text()
    code, _, out = effllm("data", "stats", tmp_path / "in.jsonl", tmp_path / "s.json", "--json", "--quiet")
    assert json.loads(out) == json.loads((tmp_path / "s.json").read_text()) and json.loads(out)["exact_duplicates"] == 1
    for verb in ("prepare", "filter", "dedup", "select", "stats", "report"):
        assert effllm("data", verb, "--help")[0] == 0
