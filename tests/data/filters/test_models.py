"""Filters that learn: language, n-gram, linear classifier; and those that mask."""

import time
from collections import Counter

import numpy as np
import pytest

from effllm.data import Document, Embedded, ngram_bits_per_byte
from effllm.data.filters import (
    PII, Blocklist, C4, Language, LanguageModel, Length, LinearClassifier, Perplexity, Quality, Uncontaminated, judge_all, keep, mask, quantile, sentences,
)  # fmt: skip
from effllm.data.ngram_model import NgramModel
from tests.data.filters.texts import text

SENTENCES = {
    "en": "The committee will publish its report on the new railway next year, although nobody expects it to change very much.",
    "de": "Der Ausschuss wird seinen Bericht über die neue Eisenbahn nächstes Jahr veröffentlichen, obwohl niemand viel davon erwartet.",
    "fr": "Le comité publiera son rapport sur le nouveau chemin de fer l'année prochaine, bien que personne n'en attende grand-chose.",
    "es": "El comité publicará su informe sobre el nuevo ferrocarril el próximo año, aunque nadie espera que cambie mucho.",
    "it": "Il comitato pubblicherà la sua relazione sulla nuova ferrovia l'anno prossimo, anche se nessuno si aspetta molto.",
    "pt": "O comité publicará o seu relatório sobre a nova ferrovia no próximo ano, embora ninguém espere que mude muito.",
    "nl": "De commissie zal haar verslag over de nieuwe spoorweg volgend jaar publiceren, hoewel niemand er veel van verwacht.",
    "sv": "Utskottet kommer att publicera sin rapport om den nya järnvägen nästa år, även om ingen väntar sig så mycket av den.",
    "pl": "Komisja opublikuje swój raport o nowej kolei w przyszłym roku, chociaż nikt nie spodziewa się po nim wiele.",
    "ru": "Комитет опубликует свой доклад о новой железной дороге в следующем году, хотя никто не ждёт от него многого.",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_language_of_unseen_sentences(language):
    for other, sentence in SENTENCES.items():
        assert Language((language,))(sentence) == ((True, "") if other == language else (False, "language")), other


def test_language_thresholds_and_own_models():
    model = LanguageModel.fit({"a": ["aaa aaa"], "b": ["bbb bbb"]})
    share = model.probabilities("aaab")["a"]
    assert 0.5 < share < 1
    assert Language(("a",), share, model)("aaab").keep and not Language(("a",), np.nextafter(share, 1), model)("aaab").keep
    assert model.probabilities("12 34") == {"a": 0.5, "b": 0.5} and not Language(("a",), 0.65, model)("12 34").keep
    assert sum(model.probabilities("abab").values()) == pytest.approx(1)
    with pytest.raises(ValueError, match="no model of xx; there are en, de"):
        Language(("xx",))
    with pytest.raises(ValueError, match="two languages"):
        LanguageModel.fit({"a": ["aaa"]})
    with pytest.raises(ValueError, match="'b' has no text"):
        LanguageModel.fit({"a": ["aaa"], "b": ["12"]})


@pytest.mark.parametrize("order", [1, 3, 5])
def test_the_fitted_ngram_model_is_the_one_shot_one(order):
    train, held_out = b"the cat sat on the mat; that cat!", b"the hat sat there"
    assert NgramModel.fit(train, order)(held_out) == pytest.approx(ngram_bits_per_byte(train, held_out, order), abs=1e-12)
    assert NgramModel.fit(train, order)("") == 8 and NgramModel.fit(train, order)("a") < 9
    for arguments in ((b"a", 0), (b"a", 8), (b"", 2)):
        with pytest.raises(ValueError):
            NgramModel.fit(*arguments)


def test_perplexity_parts_prose_from_noise(tmp_path):
    model = NgramModel.fit(" ".join(text(seed) for seed in range(40)).encode())
    rule = Perplexity(model, high=4)
    noise = bytes(np.random.default_rng(0).integers(33, 127, 400).astype(np.uint8)).decode()
    assert rule(text(50)).keep and rule(noise) == (False, "hard")
    (tmp_path / "good.txt").write_text(" ".join(text(seed) for seed in range(40)))
    assert Perplexity(str(tmp_path / "good.txt")).model(noise) == model(noise)


def test_the_classifier_learns_topics_it_has_not_seen():
    documents = list(Embedded().documents())
    prose = [d.text.decode() for d in documents if d.id.startswith("topics/")]
    code = [d.text.decode()[:3000] for d in documents if d.id.startswith("lib/")][:120]
    good, other = (prose, code) if prose else (code[:40], [text(i) for i in range(40)])
    model = LinearClassifier.fit(good[::2], other[::2], bits=14, epochs=6)
    scores = np.array([model(t) for t in (*good[1::2], *other[1::2])])
    label = np.r_[np.ones(len(good[1::2])), np.zeros(len(other[1::2]))]
    assert np.mean((scores > 0.5) == label) > 0.9
    assert LinearClassifier.fit(good[:4], other[:4], bits=10).weight_h.tobytes() == LinearClassifier.fit(good[:4], other[:4], bits=10).weight_h.tobytes()


def test_the_classifier_is_saved_and_refuses(tmp_path):
    model = LinearClassifier.fit(["good words here"], ["bad words there"], bits=10)
    assert model("good here") > 0.5 > model("bad there") and 0 < model("") < 1
    model.save(tmp_path / "quality.npz")
    rule = Quality(str(tmp_path / "quality.npz"), threshold=0.5)
    assert rule.score("good here") == model("good here") and rule("bad there") == (False, "low_quality")
    (tmp_path / "other.npz").write_text("no archive")
    for call, words in (
        (lambda: LinearClassifier.fit([], ["a"]), "both classes"), (lambda: LinearClassifier.fit(["a"], ["b"], bits=5), "bits=5"),
        (lambda: Quality(str(tmp_path / "other.npz")), "other.npz is no classifier"), (lambda: quantile([], 0.5), "0 scores"), (lambda: quantile([1], 0), "keep=0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(FileNotFoundError):
        Quality(str(tmp_path / "none.npz"))


def test_quantile_keeps_the_share():
    scores = np.random.default_rng(0).random(1000).tolist()
    for share in (0.1, 0.5, 1):
        assert sum(score >= quantile(scores, share) for score in scores) == 1000 * share


def test_pii():
    cases = {
        "write to a.b+c@mail.example.org.": "write to <EMAIL>.", "no@body": "no@body", "x @y.de": "x @y.de",
        "at 8.8.8.8 and 192.168.1.1, 127.0.0.1, 300.1.1.1": "at <IP> and 192.168.1.1, 127.0.0.1, 300.1.1.1", "v1.2.3.4.5": "v1.2.3.4.5",
        "2001:4860:4860::8888": "<IP>", "fe80::1:2": "fe80::1:2", "a::b std::vector 12:30:45": "a::b std::vector 12:30:45",
        "4111 1111 1111 1111": "<CARD>", "4111111111111112": "4111111111111112", "4111-1111-1111-1111": "<CARD>",
        "+49 30 1234567 or (555) 123-4567 or 555-123-4567": "<PHONE> or <PHONE> or <PHONE>", "2024-01-02, 3.14159265, 1234567": "2024-01-02, 3.14159265, 1234567",
    }  # fmt: skip
    for plain, masked in cases.items():
        assert mask(plain)[0] == masked
        assert mask(masked)[0] == masked
    assert mask("a@b.de, 8.8.8.8, c@d.fr", "[{}]") == ("[EMAIL], [IP], [EMAIL]", Counter(email=2, ip=1))
    assert PII(max_found=2).judge("a@b.de 8.8.8.8") == ((True, ""), "<EMAIL> <IP>")
    assert PII(max_found=1)("a@b.de 8.8.8.8") == (False, "many") and PII()("a@b.de").keep


@pytest.mark.parametrize("shape", ["{EMAIL}", "{0}{1}", "{"])
def test_a_mask_with_other_braces(shape):
    with pytest.raises(ValueError, match="takes only {}"):
        PII(mask=shape)


def test_a_run_without_a_space_takes_linear_time():
    start = time.process_time()
    assert mask("a" * 50_000 + " a@b.de")[0] == "a" * 50_000 + " <EMAIL>"
    assert sentences("." * 50_000 + "x. Yes!") == 2
    assert time.process_time() - start < 1
    assert mask("joe@x.com|jane@y.com/" + "n" * 64 + "@z.com")[0] == "<EMAIL>" * 2 + "/<EMAIL>"


def test_blocklist_files_and_neighbours(tmp_path):
    (tmp_path / "words.txt").write_text("# comment\nevil thing\n\nnasty\n")
    rule = Blocklist(path=str(tmp_path / "words.txt"))
    for kept in ("nastyness", "xnasty", "evil  thing", "# comment"):
        assert rule(kept).keep, kept
    for dropped in ("Nasty!", "an EVIL THING.", "(nasty)"):
        assert rule(dropped) == (False, "blocked"), dropped
    with pytest.raises(FileNotFoundError, match="none.txt"):
        Blocklist(path=str(tmp_path / "none.txt"))


def test_contamination_on_both_sides_of_window_and_share(tmp_path):
    question = "who wrote the book that everybody in this town has read at least once"
    (tmp_path / "eval.txt").write_text(f"{question}\nanother line of the evaluation set\n")
    leaked, short = f"before {question} and after", " ".join(question.split()[:12])
    rule = Uncontaminated(str(tmp_path / "eval.txt"))
    assert rule(leaked) == (False, "contaminated") and rule(short).keep
    assert Uncontaminated(str(tmp_path / "eval.txt"), n=12)(short) == (False, "contaminated")
    share = 2 / 5
    assert Uncontaminated(str(tmp_path / "eval.txt"), max_share=share)(leaked).keep
    assert not Uncontaminated(str(tmp_path / "eval.txt"), max_share=share - 1e-9)(leaked).keep
    (tmp_path / "none.txt").write_text("...\n")
    with pytest.raises(ValueError, match="no words"):
        Uncontaminated(str(tmp_path / "none.txt"))
    with pytest.raises(FileNotFoundError, match="missing.txt"):
        Uncontaminated("missing.txt")


def test_a_chain_cleans_in_turn_names_the_filter_and_counts():
    documents = [Document("a", b"Mail me at x@y.org today. " * 5, "mail"), Document("b", b"short"), Document("c", b"One two three. " * 2)]
    dropped = Counter()
    kept = list(keep(documents, (Length(min_characters=6), PII(), C4()), dropped))
    assert [(d.id, d.text[:24], d.domain) for d in kept] == [("a", b"Mail me at <EMAIL> today", "mail")]
    assert dropped == {"Length.short": 1, "C4.few_sentences": 1} and len(documents) == len(kept) + dropped.total()
    assert judge_all("x", ()) == ((True, ""), "x")
