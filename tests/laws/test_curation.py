"""The laws of what changes a corpus: every public filter, key method, share and pacing of effllm.data finds itself here."""

import inspect
import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import effllm.data as data
from effllm.data import curriculum, filters
from effllm.data.dedup.keyed import Keyed
from effllm.data.runner.shares import Share
from tests.data.dedup.texts import near_duplicates
from tests.data.filters.texts import text

TEXTS = [text(seed) for seed in range(40)] + ["", " ", "word", "日本語のテキスト。", "🙂 …", "a@b.org called 8.8.8.8", "\n\n\n", "x" * 2000, "#" * 50]
ARGUMENTS = {
    "Blocklist": {"phrases": ("window",)}, "Perplexity": {"model": len}, "Quality": {"score": len, "threshold": 100}, "PII": {"max_found": 1}, "Uncontaminated": {"evaluation": __file__, "n": 3},
    "RandomShare": {"keep": 0.3}, "PerplexityShare": {"model": len, "keep": 0.3, "part": "middle"}, "FieldShare": {"field": "score", "keep": 0.3, "part": "top"},
    "TowardTarget": {"target": __file__, "keep": 0.3},
}  # fmt: skip


def subjects(room, base):
    """Every concrete public class of a room below `base`, made with ARGUMENTS where it has no defaults."""
    found = (getattr(room, name) for name in room.__all__)
    return [c(**ARGUMENTS.get(c.__name__, {})) for c in found if isinstance(c, type) and issubclass(c, base) and not inspect.isabstract(c) and c is not base]


def names(subject):
    return type(subject).__name__


FILTERS, METHODS, SHARES, PACINGS = subjects(filters, filters.Filter), subjects(data, Keyed), subjects(data, Share), subjects(curriculum, curriculum.Pacing)


def test_there_are_subjects_and_the_command_line_knows_all_filters():
    assert len(FILTERS) >= 9 and len(METHODS) >= 3 and len(SHARES) >= 4 and len(PACINGS) >= 6
    assert {names(f) for f in FILTERS} <= set(data.__all__)


@pytest.mark.parametrize("rule", FILTERS, ids=names)
def test_a_filter_says_why_always_the_same_and_travels(rule):
    verdicts = [rule(text) for text in TEXTS]
    assert all(isinstance(keep, bool) and keep == (reason == "") for keep, reason in verdicts)
    assert [rule.judge(text)[0] for text in TEXTS] == verdicts == [pickle.loads(pickle.dumps(rule))(text) for text in TEXTS]
    assert rule == pickle.loads(pickle.dumps(rule)) and hash(rule) == hash(pickle.loads(pickle.dumps(rule)))


@pytest.mark.parametrize("rule", FILTERS, ids=names)
def test_a_cleaned_text_needs_no_cleaning(rule):
    for dirty in TEXTS:
        verdict, clean = rule.judge(dirty)
        if verdict.keep:
            assert rule.judge(clean) == (filters.KEEP, clean)


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_equal_texts_are_duplicates_and_keys_do_not_depend_on_neighbours(method):
    texts = [text.encode() for text in [*near_duplicates(30), *TEXTS]]
    key_db, used_d = method.keys(texts)
    assert key_db.shape == (len(texts), method.bands) and key_db.dtype == np.uint64 and used_d.dtype == bool
    evidence = method.evidence(texts)
    for d, one in enumerate(texts):
        alone, used = method.keys([one])
        assert np.array_equal(alone[0], key_db[d]) and used[0] == used_d[d] and np.array_equal(method.evidence([one])[0], evidence[d])
        assert not used_d[d] or method.similar(evidence[d], evidence[d]) == 1
    assert not used_d[texts.index(b"")] and pickle.loads(pickle.dumps(method)) == method
    for a, b in itertools.combinations(np.flatnonzero(used_d)[:20].tolist(), 2):
        assert method.similar(evidence[a], evidence[b]) == method.similar(evidence[b], evidence[a])
    assert [array.shape for array in method.keys([])] == [(0, method.bands), (0,)]


@pytest.mark.parametrize("share", SHARES, ids=names)
def test_a_share_is_that_share_and_repeatable(share):
    scorer = share.scorer(share.count(TEXTS))
    score_d = np.array([scorer(text, {"score": len(text)}) for text in TEXTS])
    keep_d = share.choose(score_d)
    assert keep_d.dtype == bool and keep_d.sum() == round(0.3 * len(TEXTS)) and np.array_equal(keep_d, share.choose(score_d))
    halves = [share.count(TEXTS[:20]), share.count(TEXTS[20:])]
    assert share.count(TEXTS) is None or np.array_equal(sum(halves), share.count(TEXTS))


@pytest.mark.parametrize("pacing", PACINGS, ids=names)
def test_a_pacing_rises_from_its_start_to_everything_under_jit_and_vmap(pacing):
    share = np.asarray(jax.jit(jax.vmap(lambda step: pacing(step, 100)))(jnp.arange(101)))
    assert share[0] == pytest.approx(pacing.start, abs=1e-3) and share[-1] == pytest.approx(1) and (np.diff(share) >= -1e-6).all()
