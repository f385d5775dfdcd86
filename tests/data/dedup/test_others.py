"""Exact, SimHash, substrings, SemDeDup, Bloom, contamination, report."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm.data.dedup import (
    Bloom, Contamination, Example, components, digest, exact_labels, hamming, normalise, render, repeated_spans, shingles, simhash, simhash_pairs,
    suffix_array, without,
)  # fmt: skip
from effllm.data.dedup.kmeans import _kmeans, kmeans, normalised
from effllm.data.dedup.semdedup import d4, nearest_before, semdedup
from tests.data.dedup.texts import near_duplicates


def test_exact():
    texts = [b"a", b"b", b"a", b"A", b"b", b""]
    assert exact_labels(texts).tolist() == [0, 1, 0, 3, 1, 5]
    assert exact_labels(map(normalise, texts)).tolist() == [0, 1, 0, 0, 1, 5]
    assert normalise("  Ünï—code,\tÉtÉ\n42!_x ".encode()) == b"uni code ete 42 x"
    assert digest(b"a") != digest(b"b") and exact_labels([]).tolist() == []


def test_simhash_follows_its_definition_and_finds_near_texts():
    random = np.random.default_rng(0)
    hash_s, start_d = random.integers(0, 1 << 32, 30, dtype=np.uint32), np.array([0, 1, 1, 4, 30])
    fingerprint_d = simhash(hash_s, start_d)
    single = [int(simhash(hash_s[i : i + 1], np.array([0, 1]))[0]) for i in range(30)]
    for d, (a, b) in enumerate(zip(start_d, start_d[1:])):
        bits = [bool(sum(value >> f & 1 for value in single[a:b]) * 2 > b - a) for f in range(64)]
        assert int(fingerprint_d[d]) == sum(bit << f for f, bit in enumerate(bits))
    texts = [text.encode() for text in near_duplicates(60, words=400, change=0.003)]
    print_d = simhash(*shingles(texts, 1))
    near = hamming(print_d[1::3], print_d[2::3])
    far = hamming(print_d[0::3], print_d[1::3])
    assert near.mean() < 5 < 12 < far.mean()
    pairs = simhash_pairs(print_d, 6)
    exact = [(i, j) for i in range(60) for j in range(i + 1, 60) if hamming(print_d[i], print_d[j]) <= 6]
    assert [tuple(p) for p in pairs.tolist()] == exact and len(exact) > 5
    assert simhash(hash_s[:0], np.zeros(1, int)).shape == (0,)
    for distance in (-1, 16):
        with pytest.raises(ValueError, match=f"distance={distance}"):
            simhash_pairs(print_d, distance)


def test_hamming_pairs_on_both_sides_of_the_distance():
    base = np.uint64(0x0123456789ABCDEF)
    flip = np.array([base, base ^ np.uint64(0b111), base ^ np.uint64(0b1111 << 20)])
    assert simhash_pairs(flip, 3).tolist() == [[0, 1]]
    assert simhash_pairs(flip, 4).tolist() == [[0, 1], [0, 2]]


@pytest.mark.parametrize("text", [b"", b"a", b"banana", b"mississippi" * 7, b"\0\0\xff\0", b"a" * 60, bytes(np.random.default_rng(0).integers(97, 100, 400).astype(np.uint8))])
def test_suffix_array(text):
    order_t, rank_t = suffix_array(text)
    assert order_t.tolist() == sorted(range(len(text)), key=lambda t: text[t:])
    assert rank_t[order_t].tolist() == list(range(len(text)))
    for depth in (1, 3, 7, 8, 13, 20):
        order_t, rank_t = suffix_array(text, depth)
        assert order_t.tolist() == sorted(range(len(text)), key=lambda t: (text[t : t + depth], t))
        keys = sorted(text[t : t + depth] for t in range(len(text)))
        assert rank_t.tolist() == [keys.index(text[t : t + depth]) for t in range(len(text))]


def naive_spans(texts, length):
    seen, out = set(), []
    for text in texts:
        covered = [False] * len(text)
        for t in range(len(text) - length + 1):
            if text[t : t + length] in seen:
                covered[t : t + length] = [True] * length
            seen.add(text[t : t + length])
        edges = [i for i in range(len(text) + 1) if (covered[i - 1] if i else False) != (covered[i] if i < len(text) else False)]
        out.append(list(zip(edges[::2], edges[1::2])))
    return out


@pytest.mark.parametrize("length", [1, 4, 9, 30])
def test_repeated_spans_are_the_windows_met_before(length):
    random = np.random.default_rng(length)
    common = bytes(random.integers(97, 123, 60).astype(np.uint8))
    texts = [bytes(random.integers(97, 123, int(random.integers(0, 50))).astype(np.uint8)) + common[int(random.integers(30)) :] for _ in range(12)] + [b"", b"ab"]
    found = repeated_spans(texts, length)
    assert found == naive_spans(texts, length) and any(found)
    rest = [without(text, spans) for text, spans in zip(texts, found)]
    assert [len(text) - sum(b - a for a, b in spans) for text, spans in zip(texts, found)] == [len(text) for text in rest]
    assert rest[0] == texts[0] or repeated_spans(texts[:1], length)[0]


def test_a_span_on_both_sides_of_the_length_and_whole_characters():
    assert repeated_spans([b"abcdefgh", b"xxabcdeyy"], 5) == [[], [(2, 7)]]
    assert repeated_spans([b"abcdefgh", b"xxabcdeyy"], 6) == [[], []]
    one, other = "aé東b".encode(), "xé東y".encode()
    (_, spans) = repeated_spans(["\u0429é東b".encode(), "\u0449é東y".encode()], 4)
    without("\u0449é東y".encode(), spans).decode()
    (_, spans) = repeated_spans([one, other], 5)
    assert without(other, spans) == b"xy"
    with pytest.raises(ValueError, match="length=0"):
        repeated_spans([b"a"], 0)
    with pytest.raises(ValueError, match="depth=0"):
        suffix_array(b"a", 0)


def blobs(seed=0, groups=5, copies=20, noise=0.01):
    random = np.random.default_rng(seed)
    centres = random.standard_normal((groups, 16))
    return (centres[:, None] + noise * random.standard_normal((groups, copies, 16))).reshape(-1, 16).astype(np.float32)


def test_kmeans_finds_blobs_and_is_repeatable():
    x = blobs()
    centre_ce, label_d = kmeans(x, 5, seed=1)
    assert len({tuple(label_d[i * 20 : i * 20 + 20]) for i in range(5)}) == 5 and all(len(set(label_d[i * 20 : i * 20 + 20])) == 1 for i in range(5))
    assert np.linalg.norm(centre_ce, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert np.array_equal(kmeans(x, 5, seed=1)[1], label_d)
    for clusters in (0, 101):
        with pytest.raises(ValueError, match=f"clusters={clusters}"):
            kmeans(x, clusters)
    x[3] = 0
    with pytest.raises(ValueError, match="embedding 3 is zero"):
        kmeans(x, 2)


def test_kmeans_in_blocks_is_nearest_and_takes_memory_of_the_embeddings_size():
    x_de = np.random.default_rng(0).normal(size=(5000, 8)).astype(np.float32)
    centre_ce, label_d = kmeans(x_de, 70, iterations=3)
    assert np.array_equal(label_d, np.argmax(normalised(x_de) @ centre_ce.T, axis=1))
    shape = jax.ShapeDtypeStruct((200_000, 64), jnp.float32)
    program = _kmeans.lower(shape, jax.random.key(0), 447, 20).compile()
    assert program.memory_analysis().temp_size_in_bytes < 3 * 200_000 * 64 * 4, "a few copies of the embeddings"


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 2050])
def test_nearest_before(count):
    x = np.random.default_rng(0).standard_normal((count, 4)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosine = np.where(np.tri(count, k=-1) > 0, x @ x.T, -np.inf)
    assert nearest_before(x) == pytest.approx(cosine.max(1), abs=1e-5)


def naive_semdedup(x, label, centre, epsilon, prefer):
    keep = np.ones(len(x), bool)
    for c in set(label.tolist()):
        member = np.flatnonzero(label == c)
        towards = x[member] @ centre[c]
        order = member[np.lexsort((member, {"hard": towards, "easy": -towards, "first": 0 * towards}[prefer]))]
        for place, j in enumerate(order):
            keep[j] = all(x[i] @ x[j] <= 1 - epsilon for i in order[:place])
    return keep


@pytest.mark.parametrize("prefer", ["hard", "easy", "first"])
def test_semdedup_is_the_published_rule(prefer):
    x = blobs(noise=0.2)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    centre, label = kmeans(x, 5, seed=3)
    keep = semdedup(x, clusters=5, epsilon=0.03, prefer=prefer, seed=3)
    assert np.array_equal(keep, naive_semdedup(x, label, centre, 0.03, prefer)) and 5 <= keep.sum() < 100


def test_semdedup_thresholds_and_d4():
    angle = np.arccos(0.9)
    x = np.array([[1, 0], [np.cos(angle), np.sin(angle)]])
    assert semdedup(x, clusters=1, epsilon=0.11, prefer="first").tolist() == [True, False]
    assert semdedup(x, clusters=1, epsilon=0.09, prefer="first").tolist() == [True, True]
    y = blobs(noise=0.05, copies=8)
    first = semdedup(y, clusters=5, epsilon=0.001)
    both = d4(y, clusters=5, epsilon=0.001, keep=0.5)
    assert both.sum() == round(0.5 * first.sum()) and not (both & ~first).any()
    assert np.array_equal(d4(y, clusters=5, epsilon=0.001, keep=1), first)
    for bad in ({"epsilon": -1}, {"epsilon": 3}, {"prefer": "best"}):
        with pytest.raises(ValueError):
            semdedup(y, clusters=5, **bad)
    with pytest.raises(ValueError, match="keep=0"):
        d4(y, clusters=5, keep=0)


def test_semdedup_by_the_hidden_states_of_our_own_model():
    from tests import tiny

    model = tiny.model(vocab_size=256, depth=2)
    texts = ["the red fox runs over the hills", "loss of a model under noise", "the red fox runs over the hills", "a letter to the editor of it"]
    tokens = np.array([list(text.ljust(32).encode()) for text in texts])
    params = tiny.init(model, tokens)
    hidden_btd, _ = model.apply({"params": params}, tokens, method="features")
    embedding_de = np.asarray(hidden_btd.mean(1))
    assert semdedup(embedding_de, clusters=1, epsilon=1e-4, prefer="first").tolist() == [True, True, False, True]


def test_bloom_never_forgets_and_errs_as_promised():
    random = np.random.default_rng(0)
    keys = np.unique(random.integers(0, 1 << 63, 30_000, dtype=np.uint64))[:20_000]
    bloom = Bloom(10_000, error=0.01)
    for part in np.split(keys[:10_000], 10):
        assert bloom.add(part).mean() < 0.03
    assert bloom.seen(keys[:10_000]).all() and bloom.add(keys[:100]).all()
    assert 0.005 < bloom.seen(keys[10_000:]).mean() < 0.02
    assert bloom.nbytes == pytest.approx(10_000 * 9.585 / 8, rel=0.01)
    fresh = Bloom(100)
    assert fresh.add(np.array([5, 5, 6], np.uint64)).tolist() == [False, True, False]
    for capacity, error in ((0, 0.1), (5, 0), (5, 1)):
        with pytest.raises(ValueError, match="Bloom"):
            Bloom(capacity, error)


def test_contamination_on_both_sides_of_a_window():
    question = b"who wrote the book that everybody in this town has read at least once"
    words = question.split()
    check = Contamination.of([question, b"short question"], n=13)
    leaked = b"noise before " + question + b" and after"
    one_less = b"noise " + b" ".join(words[:12]) + b" something else entirely here"
    assert check.share([leaked, one_less, b"", b"a short question"]).tolist() == [pytest.approx(2 / 6), 0, 0, 0]
    assert check.share([b"Short  question!"]).tolist() == [1]
    assert check.leaked([b"x " + b" ".join(words[:13])]).tolist() == [0.5, 0]
    assert Contamination.of([question], n=12).share([one_less])[0] > 0
    with pytest.raises(ValueError, match="no words"):
        Contamination.of([b"...", b""])


def test_the_report_escapes_marks_and_counts():
    page = render("Dedup of <x>", {"kept": 3, "near": 1}, {2: 1}, [
        Example("b", "one two <b>", "near", "a", "one three <b>", 0.83), Example("c", "y" * 5000, "Length.long")])
    for part in ("Dedup of &lt;x&gt;", "<del>two</del>", "<ins>three</ins>", "similarity 0.830", "&lt;b&gt;", "75.00 %", "Length.long"):
        assert part in page
    assert "<x>" not in page and "<script" not in page and len(page) < 6000


def test_labels_of_exact_texts_are_components():
    labels = exact_labels([b"a", b"b", b"a", b"a"])
    pairs = np.stack([labels, np.arange(4)], 1)
    assert components(4, pairs[pairs[:, 0] != pairs[:, 1]]).tolist() == labels.tolist()
