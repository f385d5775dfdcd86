"""The published rules decide as datatrove's do: against stored verdicts, and against the library where it is installed."""

import hashlib
import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

from effllm.data.filters import C4, FineWeb, GopherQuality, GopherRepetition
from tests.data.filters.make_goldens import verdicts
from tests.data.filters.texts import COUNT, text

RULES = {"GopherQuality": GopherQuality(), "GopherRepetition": GopherRepetition(), "C4": C4(), "FineWeb": FineWeb(max_repeated=0.1)}
GOLDEN = json.loads(Path(__file__).with_name("datatrove.json").read_text())


def ours(name):
    found = []
    for seed in range(COUNT):
        verdict, cleaned = RULES[name].judge(text(seed))
        digest = f"\t{hashlib.sha256(cleaned.encode()).hexdigest()[:12]}" if name == "C4" and verdict.keep else ""
        found.append(verdict.reason + digest)
    return found


@pytest.mark.parametrize("name", RULES)
def test_as_datatrove(name):
    assert ours(name) == GOLDEN[name]
    reasons = Counter(reason.split("\t")[0] for reason in GOLDEN[name])
    assert 0.1 < reasons[""] / COUNT < 0.9 and len(reasons) > 1


@pytest.mark.skipif(importlib.util.find_spec("datatrove") is None, reason="datatrove is not installed; the stored verdicts are compared above")
def test_the_stored_verdicts_are_the_librarys():
    assert verdicts() == GOLDEN
