import gzip
import json
import os
import time

import pytest
import zstandard

from effllm.data import Document, TextFiles, files
from effllm.data.runner import input_files


def lines(*records):
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def test_every_kind_and_compression_in_a_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_bytes(b"plain\r\ntext")
    (tmp_path / "deep" / "a.md").write_text("# märk", encoding="utf-8")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"one ") + gzip.compress(b"two"))
    zstd = zstandard.ZstdCompressor()
    (tmp_path / "d.jsonl.zst").write_bytes(zstd.compress(lines({"text": "x"})) + zstd.compress(lines({"text": "y", "more": 1})))
    (tmp_path / "ignored.py").write_text("no")
    assert list(TextFiles(str(tmp_path)).documents()) == [
        Document("b.txt", b"plain\r\ntext"),
        Document("c.txt.gz", b"one two"),
        Document("d.jsonl.zst:1", b"x"),
        Document("d.jsonl.zst:2", b"y"),
        Document("deep/a.md", "# märk".encode()),
    ]


def test_file_and_glob(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.rst").write_text("named outright")
    (tmp_path / "x" / "b.jsonl").write_bytes(lines({"body": "ünï"}).rstrip())
    assert list(TextFiles(str(tmp_path / "x" / "a.rst")).documents()) == [Document("a.rst", b"named outright")]
    assert list(TextFiles(f"{tmp_path}/**/*.jsonl", field="body").documents()) == [Document("x/b.jsonl:1", "ünï".encode())]


def test_lines_longer_than_a_read(tmp_path):
    texts = ["a" * (3 << 20), "b", "c" * (1 << 20)]
    (tmp_path / "big.jsonl").write_bytes(lines(*({"text": text} for text in texts)))
    assert [d.text.decode() for d in TextFiles(str(tmp_path)).documents()] == texts


def test_stamp_follows_the_files(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one")
    first = TextFiles(str(tmp_path)).stamp()
    assert TextFiles(str(tmp_path)).stamp() == first
    os.utime(file, ns=(1, 1))
    second = TextFiles(str(tmp_path)).stamp()
    file.rename(tmp_path / "b.txt")
    assert len({first, second, TextFiles(str(tmp_path)).stamp(), TextFiles(str(tmp_path), field="body").stamp()}) == 4


@pytest.mark.parametrize("name, content, complaint", [
    ("a.txt", b"", "a.txt is empty"),
    ("a.md", b" \n\t", "a.md is empty"),
    ("a.txt", b"te\0xt", "a.txt is binary"),
    ("a.txt", b"caf\xe9", r"a.txt is not UTF-8 \(byte 3\)"),
    ("a.txt.gz", b"not gzip", "a.txt.gz is broken gzip"),
    ("a.txt.gz", gzip.compress(b"hello" * 99)[:-9], "a.txt.gz is broken gzip"),
    ("a.txt.gz", gzip.compress(b""), "a.txt.gz is empty"),
    ("a.txt.zst", b"not zstd at all", "a.txt.zst is broken zstd"),
    ("a.txt.zst", zstandard.compress(os.urandom(9999))[:-99], "a.txt.zst is broken zstd .*ends inside"),
    ("a.jsonl", b"", "a.jsonl is empty"),
    ("a.jsonl", lines({"text": "fine"}) + b"{nope\n", "a.jsonl:2 is not JSON"),
    ("a.jsonl", b'{"text": "x", "n": ' + b"[" * 100_000 + b"\n", "a.jsonl:1 is not JSON .nested too deep"),
    ("a.jsonl", b'{"text": "x", "n": ' + b"1" * 5000 + b"}\n", "a.jsonl:1 is not JSON .a number has too many digits"),
    (b"\xff.txt", b"text", "name is not UTF-8"),
    ("a.jsonl", lines({"text": "fine"}) + b"\n" + lines({"text": "fine"}), "a.jsonl:2 is empty"),
    ("a.jsonl", lines({"body": "x"}), "a.jsonl:1 has no string field 'text'"),
    ("a.jsonl", lines({"text": 3}), "a.jsonl:1 has no string field 'text'"),
    ("a.jsonl", lines(["text"]), "a.jsonl:1 has no string field 'text'"),
    ("a.jsonl", lines({"text": ""}), "a.jsonl:1 field 'text' is empty"),
    ("a.jsonl", lines({"text": "a\0b"}), "a.jsonl:1 field 'text' is binary"),
    ("a.jsonl", lines({"text": "\ud800"}), "a.jsonl:1 field 'text' holds half a surrogate"),
], ids=lambda value: "" if isinstance(value, bytes) else None)
def test_bad_content_is_named_in_one_line(tmp_path, name, content, complaint):
    (tmp_path / os.fsdecode(name)).write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        list(TextFiles(str(tmp_path)).documents())
    assert "\n" not in str(caught.value)


def test_hidden_copies_are_read_by_neither_reader(tmp_path):
    for name in ("a.txt", ".git/b.txt", "deep/.ipynb_checkpoints/a.txt", "deep/.c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    assert [d.id for d in TextFiles(str(tmp_path)).documents()] == [file.name for file in input_files(str(tmp_path))] == ["a.txt"]


def test_a_few_kilobytes_of_zstd_are_never_a_gigabyte_at_once(tmp_path):
    pieces = zstandard.ZstdCompressor().compressobj()
    with (tmp_path / "a.txt.zst").open("wb") as file:
        for _ in range(300):
            file.write(pieces.compress(b" " * (1 << 20)))
        file.write(pieces.flush())
    sizes = [len(chunk) for chunk in files._chunks(tmp_path / "a.txt.zst")]
    assert sum(sizes) == 300 << 20 and max(sizes) <= 1 << 27


def test_a_long_line_takes_linear_time():
    lines = [b"a" * (3_000 * 4_096), b"", b"b"]
    data, start = b"\n".join(lines), time.process_time()
    assert list(files._lines(data[at : at + 4_096] for at in range(0, len(data), 4_096))) == lines
    assert time.process_time() - start < 1


@pytest.mark.parametrize("path, complaint", [
    ("nowhere", "nowhere does not exist"), ("*.txt", "matches no text file"), (".", "matches no text file")])
def test_nothing_there(tmp_path, path, complaint):
    (tmp_path / "program.py").write_text("x")
    for ask in (TextFiles(f"{tmp_path}/{path}").stamp, lambda: list(TextFiles(f"{tmp_path}/{path}").documents())):
        with pytest.raises(FileNotFoundError, match=complaint):
            ask()
