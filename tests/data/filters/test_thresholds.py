"""Every threshold at its default, one text on it and one just past it."""

import pytest

from effllm.data.filters import C4, Blocklist, FineWeb, GopherQuality, GopherRepetition, Length, Perplexity, Quality

STOPS = "the of "


def prose(words, word="abcde"):
    """`words` words, two of them stop words."""
    return STOPS + " ".join([word] * (words - 2))


def distinct(count, length=9):
    """`count` different words of `length` letters."""
    return [f"{chr(97 + i // 676 % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}".ljust(length, "x") for i in range(count)]


def lines(special, total, with_=lambda line: line + " ..."):
    """`total` lines of ten words; `special` of them changed."""
    line = "the of " + " ".join(["abcde"] * 8)
    return "\n".join([with_(line)] * special + [line] * (total - special))


def tail(repeats, n, words):
    """Distinct words of nine letters, `repeats` times followed by one and the same n-gram of them; no text shorter than n repeats otherwise."""
    head = distinct(words)
    return " ".join(head + head[:n] * repeats)


def exactly(text, characters):
    """`text` filled up with one long last word to a length."""
    return text + " " + "z" * (characters - len(text) - 1)


WITHOUT = {"lines": 1, "line_characters": 1, "paragraphs": 1, "paragraph_characters": 1, "top": (), "repeated": ()}
PARTS = ["one two three", "four five six seven", "eight nine ten"]
G, R, F = GopherQuality(), GopherRepetition, FineWeb()
TEN = "abc def gh"  # ten characters

CASES = [
    (G, "short", prose(50), prose(49)),
    (G, "long", prose(100_000), prose(100_001)),
    (G, "short_words", "the the of of " + "abc " * 44 + "of of abcd abcd abcd abcd", "the the of of " + "abc " * 44 + "of of abcd abcd abcd abc"),
    (G, "long_words", prose(50, "c" * 10) + " " + "d" * 25, prose(50, "c" * 10) + " " + "d" * 26),
    (G, "hashes", prose(90) + " #" * 10, prose(89) + " #" * 10),
    (G, "ellipses", prose(90) + " ..." * 5 + " …" * 5 + " end", prose(88) + " ..." * 5 + " …" * 5 + " end"),
    (G, "bullets", lines(9, 10, lambda line: "- " + line), lines(10, 10, lambda line: " • " + line)),
    (G, "ellipsis_ends", lines(3, 10), lines(4, 10)),
    (G, "not_alphabetic", prose(80) + " 12" * 20, prose(79) + " 12" * 21),
    (G, "few_stop_words", prose(60), "the " + "abcde " * 59),
    (R(paragraph_characters=1, lines=1, line_characters=1, top=(), repeated=()), "paragraphs",
     "\n\n".join(["a"] * 4 + [f"b{i}" for i in range(6)]), "\n\n".join(["a"] * 5 + [f"b{i}" for i in range(6)])),
    (R(lines=1, paragraphs=1, line_characters=1, top=(), repeated=()), "paragraph_characters",
     exactly(TEN + "\n\n" + TEN + "\n\n", 50), exactly(TEN + "\n\n" + TEN + "\n\n", 49)),
    (R(paragraphs=1, paragraph_characters=1, line_characters=1, top=(), repeated=()), "lines",
     "\n".join(["a"] * 4 + [f"b{i}" for i in range(6)]), "\n".join(["a"] * 5 + [f"b{i}" for i in range(6)])),
    (R(paragraphs=1, paragraph_characters=1, lines=1, top=(), repeated=()), "line_characters", exactly(TEN + "\n" + TEN + "\n", 50), exactly(TEN + "\n" + TEN + "\n", 49)),
    *((R(**WITHOUT | {"top": (1,) * (n - 2) + (R().top[n - 2],)}), f"top_{n}",
       exactly(" ".join(distinct(n) * 2), limit), exactly(" ".join(distinct(n) * 2), limit - 1))
      for n, limit in ((2, 190), (3, 323), (4, 488))),
    *((R(**WITHOUT | {"repeated": (1,) * (n - 5) + (R().repeated[n - 5],)}), f"repeated_{n}",
       exactly(tail(1, n, 12), limit), exactly(tail(1, n, 12), limit - 1))
      for n, limit in ((5, 300), (6, 386), (7, 485), (8, 600), (9, 737), (10, 900))),
    (C4(), "few_sentences", "One two three. " * 5, "One two three. " * 4),
    (F, "punctuation", "\n".join(["a line that is long enough to be none of the short ones" + "abcdefghijklmnopqrstuvwxyz"[i] for i in range(22)]
                                 + [f"a line that is long enough to be one of the right ones {i}." for i in range(3)]),
     "\n".join(["a line that is long enough to be none of the short ones" + "abcdefghijklmnopqrstuvwxyz"[i] for i in range(23)]
               + [f"a line that is long enough to be one of the right ones {i}." for i in range(3)])),
    (F, "short_lines", "\n".join([f"{i:02d} four words a line.".ljust(29, "x") + "." for i in range(67)] + [f"{i} a line of four words or eight.." for i in range(33)]),
     "\n".join([f"{i:02d} four words a line.".ljust(29, "x") + "." for i in range(68)] + [f"{i} a line of four words or eight.." for i in range(33)])),
    (F, "repeated_lines", exactly("abc d ef.\nabc d ef.\n" + "x y " * 50, 902), exactly("abc d ef.\nabc d ef.\n" + "x y " * 50, 901)),
    (F, "list", "one two three four five six long.\n\n\na b", "one two three four five six long.\n\n\na"),
    (Length(min_characters=5), "short", "abcde", "abcd"),
    (Length(max_characters=5), "long", "abcde", "abcdef"),
    (Length(min_words=3), "few_words", "a b c", "a b"),
    (Length(max_words=3), "many_words", "a b c", "a b c d"),
    (Perplexity(len, low=3), "easy", "abc", "ab"),
    (Perplexity(len, high=3), "hard", "abc", "abcd"),
    (Blocklist(("bad", "very bad"), allowed=1), "blocked", "bad is not badly", "a BAD, bad thing"),
    (Quality(lambda text: len(text) / 10, 0.3), "low_quality", "abc", "ab"),
]  # fmt: skip


@pytest.mark.parametrize("rule,reason,on,past", CASES, ids=[f"{type(c[0]).__name__}-{c[1]}" for c in CASES])
def test_threshold(rule, reason, on, past):
    assert rule(on) == (True, ""), on
    assert rule(past) == (False, reason), past


def test_c4_lines():
    keep = "This line stays as it is."
    cases = {
        "no ending here": "", "It trails off...": "", 'He said "so it is"': 'He said "so it is"', "Two words.": "", "Three words here.": "Three words here.",
        "Enable JavaScript to go on.": "", "Read our Privacy Policy now.": "", f"A {'x' * 1000} of thousand.": f"A {'x' * 1000} of thousand.",
        f"A {'x' * 1001} of more.": "", "It was found [12] there [edit].": "It was found  there .", " Indented is stripped. ": "Indented is stripped.",
    }  # fmt: skip
    for line, left in cases.items():
        verdict, text = C4(min_sentences=1).judge(f"{keep}\n{line}\n{keep}")
        assert verdict.keep and text == "\n".join([keep, *filter(None, [left]), keep]), line
    assert C4(any_ending=True, min_sentences=1).judge("no ending here")[1] == "no ending here"
    for blank in ("short", "[1] [2] [3]"):
        assert C4(any_ending=True, min_sentences=0)(blank) == (False, "few_sentences")
    for line, reason in {"Some Lorem Ipsum dolor.": "lorem_ipsum", "if x { return }.": "curly_bracket"}.items():
        assert C4(min_sentences=1)(f"{keep}\n{line}") == (False, reason)
    assert C4(min_sentences=1)(f"{keep}\nthe line { '{' } goes before its brace counts").keep


def test_empty_and_odd_texts():
    for rule in (G, R(), C4(), F, Length()):
        for text in ("", " ", "\n\n", "...", "日本語のテキスト。", "\u2028", "🙂 🙂"):
            assert rule(text).keep in (True, False)
    assert R()("") == (False, "empty") and F("\n \n") == (False, "empty") and G("... !!") == (False, "short")
    assert GopherQuality(min_words=0)("") == (False, "short")


@pytest.mark.parametrize("make", [
    lambda: Length(min_characters=3, max_characters=2), lambda: Length(min_words=3, max_words=2), lambda: GopherQuality(min_words=9, max_words=8),
    lambda: GopherQuality(min_mean=5, max_mean=4), lambda: Perplexity(len, 2, 1), lambda: Blocklist(), lambda: Blocklist((" ",)),
])  # fmt: skip
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError) as caught:
        make()
    assert "\n" not in str(caught.value)
