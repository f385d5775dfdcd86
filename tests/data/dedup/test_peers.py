"""Signatures, bands and removals as datasketch and datatrove compute them: stored, and live where they are installed."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from effllm.data.dedup import (
    MinHash, band_keys, best_of_each, candidate_pairs, components, jaccard, minhash, optimal_bands, permutations, shingles,
)  # fmt: skip
from effllm.data.dedup.compat import datatrove_signature
from tests.data.dedup import make_goldens
from tests.data.dedup.texts import near_duplicates

PEERS = json.loads(Path(__file__).with_name("peers.json").read_text())


def test_signatures_are_datasketchs_bit_for_bit():
    sets = make_goldens.sets()
    start_d = np.cumsum([0, *map(len, sets)])
    assert minhash(np.concatenate(sets), start_d, *permutations(16, seed=1)).tolist() == PEERS["datasketch"]["signatures"]


def test_bands_are_those_that_datasketch_chooses():
    for count, threshold, bands, rows in PEERS["datasketch"]["bands"]:
        assert optimal_bands(count, threshold) == (bands, rows), (count, threshold)


def test_signatures_are_datatroves_bit_for_bit():
    for text, expected in zip(near_duplicates(make_goldens.COUNT), PEERS["datatrove"]["signatures"]):
        assert datatrove_signature(np.array(make_goldens.sha1_shingles(text), np.uint64)).tolist() == expected


def test_the_same_documents_go_as_in_datatroves_pipeline():
    hashes = [np.array(make_goldens.sha1_shingles(text), np.uint64) for text in near_duplicates(make_goldens.COUNT)]
    key_db = np.stack([[hash(tuple(band)) & 0xFFFFFFFFFFFFFFFF for band in datatrove_signature(h).tolist()] for h in hashes]).astype(np.uint64)
    label_d = components(len(hashes), candidate_pairs(key_db))
    keep_d = best_of_each(label_d, np.zeros(len(hashes)))
    assert np.flatnonzero(~keep_d).tolist() == PEERS["datatrove"]["removed"] and len(PEERS["datatrove"]["removed"]) > 10


def test_our_own_hashes_disagree_with_datatrove_only_on_pairs_near_its_threshold():
    """Other hash functions find other candidates where finding is a matter of chance; P(0.9) is 0.9997."""
    texts = [text.encode() for text in near_duplicates(make_goldens.COUNT)]
    found = MinHash(threshold=0.5)(texts, score_d=-np.arange(len(texts)))
    different = set(np.flatnonzero(~found.keep_d).tolist()) ^ set(PEERS["datatrove"]["removed"])
    pairs = np.array([(i - 1, i) for i in range(2, len(texts), 3)])
    similarity = dict(zip(pairs[:, 1].tolist(), jaccard(*shingles(texts), pairs).tolist()))
    assert different <= set(similarity) and all(0.4 < similarity[d] < 0.9 for d in different)
    assert sum(s > 0.9 for s in similarity.values()) > 5


@pytest.mark.skipif(importlib.util.find_spec("datasketch") is None, reason="datasketch is not installed; its stored numbers are compared above")
def test_the_stored_numbers_are_datasketchs():
    assert make_goldens.datasketch() == PEERS["datasketch"]


@pytest.mark.skipif(importlib.util.find_spec("datatrove") is None, reason="datatrove is not installed; its stored numbers are compared above")
def test_the_stored_numbers_are_datatroves():
    assert make_goldens.datatrove() == PEERS["datatrove"]


def test_keys_agree_where_and_only_where_all_rows_do():
    random = np.random.default_rng(0)
    signature_dk = random.integers(0, 2, (300, 12)).astype(np.uint32)
    for bands in (1, 3, 5, 12):
        rows = 12 // bands
        key_db = band_keys(signature_dk, bands)
        for b in range(bands):
            part = [tuple(row) for row in signature_dk[:, b * rows : (b + 1) * rows].tolist()]
            assert len(set(part)) == len(set(key_db[:, b].tolist())) == len(set(zip(part, key_db[:, b].tolist())))
    for bands in (0, 13, -1):
        with pytest.raises(ValueError, match=f"bands={bands}"):
            band_keys(signature_dk, bands)
