"""Reports: one page, self-contained, that says what was measured and escapes what it shows."""

import dataclasses
import re

import pytest

from effllm.evaluate import RunRecord, render


def run(name, bits, width=32):
    return RunRecord(
        name,
        {"class": "effllm.config.Experiment", "steps": 20, "model": {"class": "effllm.nn.DecoderLM", "width": width}},
        [{"step": s, "loss": 3.0 - s / 20 if s != 10 else None, "tokens_per_second": 1000.0 + s} for s in (5, 10, 15, 20)],
        [{"step": 10, "loss": 2.4}],
        {
            "held_out": {"loss": 1.5, "bits_per_byte": bits, "perplexity": 4.5, "tokens": 10, "bytes": 10},
            "baselines": {"bigram": 3.5, "gzip -9": 1.97}, "sample": {"prompt": "<b>", "text": "a < b & c", "how": "Greedy."},
            "cost": {"utilisation": "no peak known for 'cpu' in float32"},
        },
        {"command": "effllm train x.py", "hardware": "2 cores", "versions": {"jax": "0.10"}, "formula": "3·(2·N)", "cost": {"parameters": 12345}},
    )  # fmt: skip


def test_one_run():
    page = render([run("first", 2.0)])
    for shown in ("2.000", "bits per byte", "first", "12.3 k", "effllm train x.py", "jax 0.10", "3·(2·N)", "no peak known", "<svg", "gzip -9", "&lt;b&gt;", "a &lt; b &amp; c"):
        assert shown in page, shown
    assert "<b>a" not in page
    assert not re.search(r'(src|href)="(?!#)', page)  # nothing from outside


def test_several_runs_show_what_differs():
    page = render([run("narrow", 2.0), run("wide", 1.9, width=64)])
    assert "model.width" in page and "<td>32</td><td>64</td>" in page
    assert "steps</td>" not in page.split("What differs")[1].split("How it was made")[0]
    assert page.count("A sample of") == 2


def test_a_run_that_has_only_begun():
    page = render([RunRecord("new", {"steps": 10}, [])])
    assert "No step was logged yet" in page
    with pytest.raises(ValueError, match="at least one run"):
        render([])


def test_a_loss_that_is_not_finite_is_a_dash():
    held = {"loss": None, "bits_per_byte": None, "perplexity": None, "tokens": 10, "bytes": 10}
    assert render([RunRecord("lost", {"steps": 10}, [], result={"held_out": held})]).count("<b>—</b>") == 4


def test_baselines_of_other_data_are_left_out():
    def on(fingerprint):
        data = {"source": "S()", "train_documents": 1, "held_out_documents": 1, "fingerprint": fingerprint}
        return dataclasses.replace(run(f"on {fingerprint}", 2.0), info={"data": data})

    same, other = render([on("a"), on("a")]), render([on("a"), on("b")])
    assert "gzip -9" in same and "different data" not in same
    assert "gzip -9" not in other and "different data" in other


def test_runs_of_different_tokens_are_told_apart():
    def read_as(tokenizer):
        return dataclasses.replace(run(tokenizer, 2.0), config={"data": {"tokenizer": {"class": tokenizer}}})

    assert "different tokens" in render([read_as("Bytes"), read_as("ByteBPE")])
    assert "different tokens" not in render([read_as("Bytes"), read_as("Bytes")])


@pytest.mark.parametrize("tokens,words", [(10, "Dots: held-out loss.<"), (4, "Dots: held-out loss of the first 16 batches")])
def test_dots_say_what_they_are_of(tokens, words):
    assert words in render([dataclasses.replace(run("r", 2.0), config={"eval_batches": 16}, evals=[{"step": 10, "loss": 2.4, "tokens": tokens}])])
