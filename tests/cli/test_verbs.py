"""The verbs as a newcomer uses them, on a run of a few steps."""

import json
import math

import pytest
from click.testing import CliRunner

from effllm.cli import main


def effllm(*args):
    """Standard output of a command that must succeed."""
    result = CliRunner().invoke(main, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def folder(tiny_config, tmp_path_factory):
    return tiny_config(tmp_path_factory.mktemp("verbs"), steps=6, log_every=2, save_every=2, eval_every=3, eval_batches=2)


@pytest.fixture(scope="module")
def run(folder):
    said = effllm("train", folder / "config.py", "--run-dir", folder / "run")
    for words in ("documents", "SHA-256", "parameters", "held out", "bigram", "gzip -9", "this model", "report.html"):
        assert words in said, words
    return folder / "run"


def test_a_run_directory_holds_what_it_promises(run):
    assert {"config.json", "metrics.jsonl", "eval.jsonl", "checkpoints", "report.html", "result.json", "run.json", "tokenizer.json"} <= {p.name for p in run.iterdir()}
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [2, 4, 6] and all({"loss", "tokens_per_second", "learning_rate", "gradient_norm", "skipped"} <= set(m) for m in metrics)
    assert [json.loads(line)["step"] for line in (run / "eval.jsonl").read_text().splitlines()] == [3, 6]
    info = json.loads((run / "run.json").read_text())
    assert {"command", "hardware", "versions", "data", "cost"} <= set(info) and info["data"]["held_out_documents"] > 0


def test_eval_agrees_with_the_end_of_training(run):
    measured = json.loads(effllm("eval", run, "--json"))
    at_the_end = json.loads((run / "result.json").read_text())["held_out"]
    assert measured["step"] == 6 and measured["loss"] == pytest.approx(at_the_end["loss"], rel=1e-6)
    # Bytes() scores the end of each document too: it costs bits and stands for no byte.
    assert measured["bits_per_byte"] == pytest.approx(measured["loss"] / math.log(2) * measured["tokens"] / measured["bytes"])
    assert measured["bytes"] < measured["tokens"]
    assert f"{measured['bits_per_byte']:.4f} bits per byte" in effllm("eval", run)


def test_eval_on_another_mesh_is_the_same(run):
    here, there = (json.loads(effllm("eval", run, *mesh, "--json"))["loss"] for mesh in ((), ("mesh.data=2", "mesh.tensor=2")))
    assert there == pytest.approx(here, rel=1e-5)


def test_eval_cost_is_one_table(run):
    said = effllm("eval", run, "--cost")
    for row in ("parameters", "model size", "FLOPs", "prefill", "decoding", "peak memory", "energy", "carbon"):
        assert row in said, row
    cost = json.loads(effllm("eval", run, "--cost", "--json", "--grid", 100))["cost"]
    assert cost["prefill_seconds"] > 0 and cost["grid_grams_per_kwh"] == 100
    assert (cost["energy_joules"] is None) == (cost["energy_source"] == "no counter here") == (cost["carbon_grams"] is None)


def test_sampling_is_reproducible_and_batched(run):
    def sample(*options):
        return json.loads(effllm("sample", run, "--prompt", "the ", "--prompt", "a reads", "--tokens", 9, *options, "--json"))["samples"]

    assert [s["prompt"] for s in sample()] == ["the ", "a reads"]
    assert sample("--seed", 1) == sample("--seed", 1) != sample("--seed", 2)
    assert sample("--temperature", 0) == sample("--temperature", 0, "--seed", 5) == sample("--top-k", 1)


def test_show_trains_nothing(folder):
    said = effllm("show", folder / "config.py", "mesh.data=2", "mesh.fsdp=2")
    for words in ("learning_rate = 0.003", "layers.blocks_0.mixer.q.kernel", "cut 1 × 2 × 1", "bytes per device on mesh data=2, fsdp=2, tensor=1", "FLOPs per token"):
        assert words in said, words
    shown = json.loads(effllm("show", folder / "config.py", "model.depth=4", "--json"))
    assert shown["config"]["model"]["depth"] == 4 and shown["cost"]["parameters"] > 0 and shown["cost"]["mesh"]["data"] == 1


def test_reports(run, folder, tmp_path):
    assert effllm("report", run).strip() == str(run / "report.html")
    page = tmp_path / "both.html"
    effllm("report", run, run, "--out", page)
    assert "2 training runs" in page.read_text()


def test_overrides_name_their_own_directory(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    effllm("train", folder / "config.py", "steps=2", "model.depth=4", "--quiet")
    assert json.loads((tmp_path / "runs/config,model.depth=4,steps=2/config.json").read_text())["model"]["depth"] == 4


def test_help_teaches():
    assert "configs/first.py" in effllm("--help")
    for verb in ("train", "show", "eval", "sample", "report"):
        assert "Usage" in effllm(verb, "--help")
