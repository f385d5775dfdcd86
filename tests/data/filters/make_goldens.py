"""Writes datatrove.json: datatrove's verdicts on text(0) … text(COUNT-1). Needs `pip install "datatrove==0.10.1" regex "xxhash<4"`.

    python -m tests.data.filters.make_goldens

Both sides split words and sentences as effllm does, so that the rules are compared and not spaCy's tokens.
"""

import hashlib
import json
from pathlib import Path

from effllm.data.filters.words import sentences, words
from tests.data.filters.texts import COUNT, text

REASONS = {
    "GopherQuality": {
        "gopher_short_doc": "short", "gopher_long_doc": "long", "gopher_below_avg_threshold": "short_words", "gopher_above_avg_threshold": "long_words",
        "gopher_too_many_hashes": "hashes", "gopher_too_many_ellipsis": "ellipses", "gopher_too_many_bullets": "bullets",
        "gopher_too_many_end_ellipsis": "ellipsis_ends", "gopher_below_alpha_threshold": "not_alphabetic", "gopher_enough_stop_words": "few_stop_words",
    },
    "GopherRepetition": {
        "dup_para_frac": "paragraphs", "dup_para_char_frac": "paragraph_characters", "dup_line_frac": "lines", "dup_line_char_frac": "line_characters",
    } | {f"top_{n}_gram": f"top_{n}" for n in (2, 3, 4)} | {f"duplicated_{n}_n_grams": f"repeated_{n}" for n in range(5, 11)},
    "C4": {"lorem_ipsum": "lorem_ipsum", "curly_bracket": "curly_bracket", "too_few_sentences": "few_sentences"},
    "FineWeb": {"line_punct_ratio": "punctuation", "short_line_ratio": "short_lines", "char_dup_ratio": "repeated_lines", "list_ratio": "list", "empty": "empty"},
}  # fmt: skip


def verdicts() -> dict[str, list[str]]:
    """{our filter: the reason for every text in our words}; where C4 keeps, after a tab the digest of the cleaned text."""
    from datatrove.data import Document
    from datatrove.pipeline import filters
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

    for module in (filters.gopher_quality_filter, filters.gopher_repetition_filter, filters.fineweb_quality_filter):
        module.split_into_words = lambda text, language: list(words(text))
    filters.c4_filters.split_into_sentences = lambda text, language: [text] * sentences(text)
    peers = {
        "GopherQuality": GopherQualityFilter(), "GopherRepetition": GopherRepetitionFilter(), "C4": C4QualityFilter(),
        "FineWeb": FineWebQualityFilter(char_duplicates_ratio=0.1),
    }  # fmt: skip
    out = {}
    for name, peer in peers.items():
        out[name] = []
        for seed in range(COUNT):
            document = Document(text=text(seed), id=str(seed))
            answer = peer.filter(document)
            out[name].append("" if answer is True else REASONS[name][answer[1]])
            if name == "C4" and answer is True:
                out[name][-1] = f"\t{hashlib.sha256(document.text.encode()).hexdigest()[:12]}"
    return out


if __name__ == "__main__":
    Path(__file__).with_name("datatrove.json").write_text(json.dumps(verdicts(), separators=(",", ":")) + "\n")
