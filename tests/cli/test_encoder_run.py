"""An encoder from a config file to its report."""

import json

import pytest

from tests.cli.test_errors import refused
from tests.cli.test_verbs import effllm

MODEL = "model=EncoderLM(vocab_size=257,width=32,depth=2,blocks=(Block(FNet(),MLP(hidden=32)),),input_position=Learned(32))"


@pytest.fixture(scope="module")
def run(tiny_config, tmp_path_factory):
    folder = tiny_config(tmp_path_factory.mktemp("encoder"), steps=30, log_every=10, save_every=20, eval_every=10, eval_batches=4)
    said = effllm("train", folder / "config.py", MODEL, "objective=MaskedLM()", "--run-dir", folder / "run")
    assert "nats a predicted token" in said and "bits per byte" not in said
    return folder / "run"


def test_it_learns_to_fill_masks_and_says_so(run):
    evals = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    assert [e["step"] for e in evals] == [10, 20, 30] and evals[-1]["loss"] < evals[0]["loss"] < 5.6
    assert all(e["bits_per_byte"] is None for e in evals)
    result = json.loads((run / "result.json").read_text())
    assert result["baselines"] == {} and "sample" not in result
    measured = json.loads(effllm("eval", run, "--json"))
    assert measured["loss"] == pytest.approx(result["held_out"]["loss"], rel=1e-6) and measured["tokens"] == result["held_out"]["tokens"]
    assert json.loads(effllm("eval", run, "mesh.data=2", "--json"))["loss"] == pytest.approx(measured["loss"], rel=1e-5)
    assert "predicted tokens of the held-out text" in effllm("eval", run)
    assert "Beside other models" not in (run / "report.html").read_text()


def test_what_an_encoder_cannot_do_is_one_line(run):
    config = run.parent / "config.py"
    assert "mixing" in effllm("show", config, MODEL, "objective=MaskedLM()")
    assert "EncoderLM, which sees both sides of a token and cannot generate" in refused("sample", run, "--prompt", "the")
    assert "EncoderLM cannot generate" in refused("eval", run, "--cost")
    assert "objective=NextToken: EncoderLM sees" in refused("train", config, MODEL, "--run-dir", run.parent / "other")
    assert "FNet is not causal" in refused("train", config, "model.blocks.0.mixer=FNet()", "--run-dir", run.parent / "other")
    small = MODEL.replace("257", "256")
    assert "tokenizer has 256 tokens and the objective needs 1 more; set model.vocab_size to 257" in refused(
        "train", config, small, "objective=MaskedLM()", "--run-dir", run.parent / "other"
    )
