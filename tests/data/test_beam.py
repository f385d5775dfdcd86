"""Beam's local runner keeps what the single machine keeps."""

import importlib.util
import pickle
import random

import numpy as np
import pytest

from effllm.data import Exact, Near
from effllm.data.dedup import MinHash
from effllm.data.filters import PII, Length, judge_all
from effllm.data.runner import Record
from tests.data.dedup.texts import near_duplicates

pytestmark = pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason='apache_beam is not installed: pip install "effllm[beam]"')
TEXTS = near_duplicates(60, seed=4, change=0.006)


@pytest.fixture
def run(tmp_path):
    """Runs a transform on records with Beam's local runner; returns what comes out, or what comes out under a tag."""
    import apache_beam as beam

    def run(transform, records, tag=None):
        path = tmp_path / "out.pickle"
        with beam.Pipeline(runner="DirectRunner") as pipeline:
            out = pipeline | beam.Create(records) | transform
            (out if tag is None else out[tag]) | beam.combiners.ToList() | beam.Map(lambda found: path.write_bytes(pickle.dumps(found)))
        return pickle.loads(path.read_bytes())

    return run


def test_filters(run):
    from effllm.data.beam import DROPPED, KEPT, Filtered

    rules = (Length(min_words=90), PII())
    records = [Record(f"{i:03d}", text + " a@b.org", {"n": i}) for i, text in enumerate(TEXTS)]
    judged = {record.id: judge_all(record.text, rules) for record in records}
    kept = run(Filtered(rules), records, KEPT)
    assert {r.id: r.text for r in kept} == {i: text for i, (verdict, text) in judged.items() if verdict.keep} and 5 < len(kept) < 55
    assert all(r.rest == {"n": int(r.id)} and r.text.endswith("<EMAIL>") for r in kept)
    dropped = run(Filtered(rules), records, DROPPED)
    assert {(reason, r.id) for reason, r in dropped} == {(verdict.reason, i) for i, (verdict, _) in judged.items() if not verdict.keep}
    assert len(kept) + len(dropped) == len(records)


@pytest.mark.parametrize("method", [Near(threshold=0.7), Exact()], ids=["near", "exact"])
def test_dedup(run, method):
    from effllm.data.beam import Deduplicated

    texts = [*TEXTS, TEXTS[0], TEXTS[0]]
    records = [Record(f"{i:03d}", text) for i, text in enumerate(texts)]
    shuffled = random.Random(0).sample(records, len(records))
    kept = sorted(record.id for record in run(Deduplicated(method), shuffled))
    if isinstance(method, Exact):
        expected = sorted(f"{texts.index(text):03d}" for text in set(texts))
    else:
        keep_d = MinHash(threshold=0.7)([text.encode() for text in texts]).keep_d
        expected = [f"{i:03d}" for i in np.flatnonzero(keep_d)]
        assert len(expected) < len(texts) - 8
    assert kept == expected


def test_a_score_decides(run):
    from effllm.data.beam import Deduplicated

    records = [Record("a", "same words", {"q": 1}), Record("b", "same words", {"q": 3}), Record("c", "same words", {"q": 3})]
    assert [r.id for r in run(Deduplicated(Exact(), lambda record: record.rest["q"]), records)] == ["b"]
