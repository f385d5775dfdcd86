"""Shingles, MinHash in both forms, LSH and verification against plain definitions."""

import re

import jax
import numpy as np
import pytest

from effllm.data.dedup import (
    MinHash, band_keys, best_of_each, candidate_pairs, collision_probability, components, jaccard, minhash, optimal_bands, permutations,
    shingles, similarity,
)  # fmt: skip
from effllm.data.dedup import minhash_jax
from effllm.data.dedup.lsh import group_pairs
from tests.data.dedup.texts import near_duplicates

TEXTS = [
    "The quick brown fox jumps; the QUICK brown fox jumps again.", "", "one", "one two three four", "...", "one two three four five", "two three four five one",
    "a-very_long-word pneumonoultramicroscopicsilicovolcanoconiosis stands here twice, pneumonoultramicroscopicsilicovolcanoconiosiS too",
    "naïve café 東京 2024", "naïve cafe 東京 2024", "tab\tand\nnewline and eightlet ninelette", "x" * 300, "x" * 299 + "y", "a\0b c d e f",
]  # fmt: skip


def windows(text: str, n: int) -> list[tuple[bytes, ...]]:
    words = re.findall(rb"[0-9a-z\x80-\xff]+", re.sub(rb"[A-Z]", lambda m: m[0].lower(), text.encode()))
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)] or ([tuple(words)] if words else [])


@pytest.mark.parametrize("n", [1, 2, 5, 13])
def test_shingles_are_the_windows_of_words(n):
    hash_s, start_d = shingles([text.encode() for text in TEXTS], n)
    expected = [window for text in TEXTS for window in windows(text, n)]
    assert start_d.tolist() == np.cumsum([0, *(len(windows(text, n)) for text in TEXTS)]).tolist()
    assert len(hash_s) == len(expected)
    assert len(set(expected)) == len(set(hash_s.tolist())) == len(set(zip(expected, hash_s.tolist())))


def test_shingles_do_not_depend_on_neighbours():
    texts = [text.encode() for text in TEXTS]
    whole, start_d = shingles(texts, 3)
    for d, text in enumerate(texts):
        assert shingles([text], 3)[0].tolist() == whole[start_d[d] : start_d[d + 1]].tolist()
    assert shingles([], 5)[1].tolist() == [0] and len(shingles([b"", b" "], 5)[0]) == 0
    for n in (0, 65):
        with pytest.raises(ValueError, match=f"n={n}"):
            shingles([b"a"], n)


def ragged(sizes, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 1 << 32, sum(sizes), dtype=np.uint32), np.cumsum([0, *sizes])


def test_numpy_and_jax_are_equal_bit_for_bit():
    hash_s, start_d = ragged([1, 0, 7, 300, 5000, 2])
    a_k, b_k = permutations(24, seed=3)
    signature_dk = minhash(hash_s, start_d, a_k, b_k)
    hash_ds, length_d = minhash_jax.pad_shingles(hash_s, start_d)
    there = jax.jit(minhash_jax.minhash)(hash_ds, length_d, a_k, b_k)
    assert hash_ds.shape == (6, 8192) and there.dtype == np.uint32
    assert np.array_equal(there, signature_dk)
    assert (signature_dk[1] == 0xFFFFFFFF).all()
    for bands in (1, 5, 6):
        halves = np.asarray(minhash_jax.band_keys(there, bands)).astype(np.uint64)
        assert np.array_equal((halves[..., 0] << np.uint64(32)) | halves[..., 1], band_keys(signature_dk, bands))


def test_the_estimate_has_the_theorys_bias_and_spread():
    random = np.random.default_rng(1)
    a_k, b_k = permutations(112)
    for target in (0.2, 0.5, 0.8):
        errors = []
        for _ in range(120):
            union = random.integers(0, 1 << 32, 600, dtype=np.uint32)
            common = round(target * 600)
            rest = (600 - common) // 2
            one, other = union[: common + rest], np.r_[union[:common], union[common + rest :]]
            signature = minhash(np.r_[one, other], np.array([0, len(one), len(one) + len(other)]), a_k, b_k)
            errors.append(similarity(signature[0], signature[1]) - common / 600)
        sigma = np.sqrt(target * (1 - target) / 112)
        assert abs(np.mean(errors)) < 4 * sigma / np.sqrt(120)
        assert 0.8 * sigma < np.std(errors) < 1.2 * sigma


def test_pairs_meet_as_often_as_theory_says():
    random = np.random.default_rng(2)
    bands, rows, trials = 14, 8, 250
    for target in (0.6, 0.8):
        sets = []
        for _ in range(trials):
            union, common = random.integers(0, 1 << 32, 200, dtype=np.uint32), round(target * 200)
            sets += [union[: common + (200 - common) // 2], np.r_[union[:common], union[common + (200 - common) // 2 :]]]
        start_d = np.cumsum([0, *map(len, sets)])
        pair_p2 = candidate_pairs(band_keys(minhash(np.concatenate(sets), start_d, *permutations(112)), bands))
        assert np.array_equal(pair_p2[:, 0] + 1, pair_p2[:, 1]) and not (pair_p2[:, 0] % 2).any()
        p = collision_probability(target, bands, rows)
        assert abs(len(pair_p2) / trials - p) < 4 * np.sqrt(p * (1 - p) / trials)
    assert collision_probability(0.8, 14, 8) == pytest.approx(0.924, abs=5e-4)
    with pytest.raises(ValueError, match="threshold=1"):
        optimal_bands(10, 1)


def test_jaccard_is_that_of_the_sets():
    texts = [text.encode() for text in near_duplicates(40)]
    hash_s, start_d = shingles(texts, 3)
    pairs = np.array([(i, j) for i in range(40) for j in range(i + 1, 40)])
    sets = [set(windows(text.decode(), 3)) for text in texts]
    exact = [len(sets[i] & sets[j]) / len(sets[i] | sets[j]) for i, j in pairs]
    assert jaccard(hash_s, start_d, pairs) == pytest.approx(exact, abs=1e-12)
    empty = shingles([b"", b"", b"a"], 3)
    assert jaccard(*empty, np.array([[0, 1], [0, 2]])).tolist() == [0, 0]


def test_candidates_are_equal_keys():
    random = np.random.default_rng(3)
    key_db = random.integers(0, 12, (60, 2)).astype(np.uint64)
    expected = sorted({(i, j) for b in range(2) for i in range(60) for j in range(i + 1, 60) if key_db[i, b] == key_db[j, b]})
    assert candidate_pairs(key_db).tolist() == [list(pair) for pair in expected]
    used_d = np.arange(60) % 2 == 0
    assert candidate_pairs(key_db, used_d).tolist() == [list(pair) for pair in expected if used_d[list(pair)].all()]
    assert candidate_pairs(key_db[:0]).shape == (0, 2)


@pytest.mark.parametrize("size", [1, 2, 16, 17, 1000])
def test_a_large_group_stays_linear_and_connected(size):
    pairs = group_pairs(np.zeros(size, np.uint64))
    assert len(pairs) == len(np.unique(pairs, axis=0)) == (size * (size - 1) // 2 if size <= 16 else 2 * size - 3)
    assert (components(size, pairs) == 0).all()


def test_components_are_those_of_union_find():
    random = np.random.default_rng(4)
    for count, edges in ((1, 0), (50, 20), (200, 150), (500, 600)):
        pairs = random.integers(0, count, (edges, 2))
        parent = list(range(count))

        def find(i):
            while parent[i] != i:
                i = parent[i]
            return i

        for i, j in pairs.tolist():
            a, b = sorted((find(i), find(j)))
            parent[b] = a
        assert components(count, pairs).tolist() == [find(i) for i in range(count)]
    chain = np.stack([np.arange(9999), np.arange(1, 10000)], 1)
    assert (components(10000, random.permutation(chain)) == 0).all()
    with pytest.raises(ValueError, match="names document 5 of 5"):
        components(5, np.array([[0, 5]]))


def test_the_best_of_a_cluster_stays():
    label_d, score_d = np.array([0, 1, 0, 1, 4, 0]), np.array([1.0, 5, 3, 5, 0, 2])
    assert best_of_each(label_d, score_d).tolist() == [False, True, True, False, True, False]
    assert best_of_each(np.zeros(0, int), np.zeros(0)).tolist() == []


def test_planted_duplicates_are_found_and_nothing_else():
    texts = [text.encode() for text in near_duplicates(90, seed=5)]
    found = MinHash(threshold=0.6)(texts)
    assert len(found.pair_p2) > 5 and (found.pair_p2 % 3 == [1, 2]).all() and (found.similarity_p >= 0.6).all()
    hash_s, start_d = shingles(texts)
    every = np.array([(i, j) for i in range(90) for j in range(i + 1, 90)])
    exact = jaccard(hash_s, start_d, every)
    assert {tuple(p) for p in every[exact >= 0.9].tolist()} <= {tuple(p) for p in found.pair_p2.tolist()}
    assert len(texts) - found.keep_d.sum() == sum(len(g) - 1 for g in np.split(np.argsort(found.label_d), np.unique(np.sort(found.label_d), return_index=True)[1][1:]))


def test_the_threshold_is_inclusive_and_empty_texts_are_nobodys_duplicates():
    a, b = b"one two three four five six", b"one two three four five seven"
    found = MinHash(ngram=1, bands=50, rows=1, threshold=5 / 7)([a, b, b"", b"...", b""])
    assert found.pair_p2.tolist() == [[0, 1]] and found.similarity_p.tolist() == [5 / 7] and found.keep_d.tolist() == [False, True, True, True, True]
    assert not len(MinHash(ngram=1, bands=50, rows=1, threshold=np.nextafter(5 / 7, 1))([a, b]).pair_p2)
    assert MinHash()([]).keep_d.tolist() == []
    for changed in ({"ngram": 0}, {"bands": 0}, {"rows": 0}, {"threshold": 0}, {"threshold": 1.1}):
        with pytest.raises(ValueError, match=next(iter(changed))):
            MinHash(**changed)
