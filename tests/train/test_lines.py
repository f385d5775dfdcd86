"""Curricula and online selection as single lines of an experiment: few compilations, exact resume."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from effllm.cli import main
from effllm.config import assemble, load_config, write_config
from effllm.data import prepare
from effllm.data.curriculum import LengthWarmup
from effllm.nn import Ramp


def effllm(*args):
    result = CliRunner().invoke(main, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def folder(tiny_config, tmp_path_factory):
    return tiny_config(tmp_path_factory.mktemp("lines"), steps=12, log_every=1, save_every=4, eval_batches=1)


def trained(program, dataset, state, start, stop):
    losses = []
    with program.train_batches(dataset, start) as batches:
        for step in range(start, stop):
            state, metrics = program.step(state, program.place(next(batches)), step)
            losses.append((float(metrics["loss"]), float(metrics["tokens"])))
    return state, losses


LTD = "model.blocks=(Block(Attention(heads=2),SwiGLU(hidden=32)),RandomLTD(Attention(heads=2),SwiGLU(hidden=32),keep=Ramp(levels=2,duration=0.6)))"
LINES = {
    "data.curriculum=SequenceWarmup(minimum=8,steps=8,multiple=8)": 4,
    "data.curriculum=Paced(hardest_first=True)": 1,
    "data.curriculum=LengthBuckets(shortest=8)": 3,
    LTD: 3,
    "select=TopLoss(keep=0.5)": 1,
    "select=GradientNorm(keep=0.5)": 1,
}


@pytest.mark.parametrize("line,compilations", LINES.items(), ids=list(LINES))
def test_a_line_compiles_few_shapes(folder, line, compilations):
    experiment = load_config(str(folder / "config.py"), (line,))
    program, dataset = assemble(experiment), prepare(experiment.data)
    state, losses = trained(program, dataset, program.init(), 0, 12)
    assert program.jitted_step._cache_size() == compilations and np.isfinite(losses).all()
    read = [tokens for _, tokens in losses]
    if "Warmup" in line:
        lengths = [LengthWarmup(32, 8, 8, 8)(step) for step in range(12)]
        assert all(4 * length - 4 * 8 < tokens <= 4 * length for tokens, length in zip(read, lengths))
    if "select" in line:
        assert all(tokens <= 2 * 32 for tokens in read)


def test_the_rate_that_is_logged_is_the_rate_that_moved(folder):
    """A step that is skipped leaves the optimizer's count, and so its schedule, where it was."""
    experiment = load_config(str(folder / "config.py"), ("model.blocks.0.dropout=0.0", "optimizer.weight_decay=0"))
    program, dataset = assemble(experiment), prepare(experiment.data)
    with program.train_batches(dataset, 0) as batches:
        batch = program.place(next(batches))
    bad = batch | {"weights": np.nan * batch["weights"]}
    moved, plain = program.step(program.init(), batch)
    state, lost = program.step(program.init(), bad)
    assert int(lost["skipped"]) == 1
    state, late = program.step(state, batch, 1)
    np.testing.assert_array_equal(state.params["embed"]["embedding"], moved.params["embed"]["embedding"])
    assert float(late["learning_rate"]) == float(plain["learning_rate"]) == pytest.approx(1.5e-3)


def test_a_ramp_has_its_levels_and_its_end():
    ramp = Ramp(start=0.25, end=1.0, duration=0.5, levels=3)
    assert [ramp(step, 60) for step in (0, 9, 10, 19, 20, 29, 30, 59)] == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0]
    for bad in ({"duration": 0.0}, {"duration": 1.5}, {"levels": 0}):
        with pytest.raises(ValueError, match="Ramp"):
            Ramp(**bad)


def test_all_lines_at_once_resume_bit_for_bit_and_the_report_goes_on(folder):
    lines = ("data.curriculum=SequenceWarmup(minimum=16,steps=8,multiple=16,over=Paced(pacing=LinearPacing(start=0.2)))", "select=SoftLoss(keep=0.5)", LTD.replace("levels=2", "levels=1"))
    whole, parts = folder / "whole", folder / "parts"
    effllm("train", folder / "config.py", *lines, "--run-dir", whole, "--quiet")
    shutil.copytree(whole, parts)
    for step in (8, 12):
        shutil.rmtree(parts / "checkpoints" / str(step))
    effllm("train", folder / "config.py", *lines, "--run-dir", parts, "--quiet")
    one, other = ([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (whole, parts))
    assert [(m["step"], m["loss"], m["score_all"]) for m in one] == [(m["step"], m["loss"], m["score_all"]) for m in other] and len(one) == 12
    shutil.rmtree(parts / "checkpoints" / "12")
    refused = CliRunner().invoke(main, ["train", str(folder / "config.py"), *lines, "steps=20", "--run-dir", str(parts), "--quiet"])
    assert refused.exit_code == 2 and "steps was 12 and is now 20" in refused.stderr and refused.stderr.count("\n") == 1


def test_rho_learns_from_what_a_reference_run_finds_learnable(folder):
    reference = folder / "reference"
    effllm("train", folder / "config.py", "steps=4", "model.width=16", "model.depth=1", "--run-dir", reference, "--quiet")
    experiment = load_config(str(folder / "config.py"), (f"select=RHOLoss(keep=0.5,reference={str(reference)!r})", "model.blocks.0.dropout=0.0"))
    program, dataset = assemble(experiment), prepare(experiment.data)
    small = assemble(load_config(str(folder / "config.py"), ("model.width=16", "model.depth=1")))
    with program.train_batches(dataset, 0) as batches:
        batch = program.place(next(batches))
    rows = [{name: array[b : b + 1] for name, array in batch.items()} for b in range(4)]
    state = program.init()
    gap = [float(program.loss(state.params, row)["loss"] - small.loss(program.reference_params, row)["loss"]) for row in rows]
    best = sorted(np.argsort(gap)[-2:])
    expected = program.loss(state.params, {name: np.asarray(array)[best] for name, array in batch.items()})
    _, metrics = program.step(state, batch)
    assert float(metrics["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
    assert float(metrics["score_chosen"]) == pytest.approx(np.mean([gap[b] for b in best]), rel=1e-3)


@pytest.mark.parametrize("lines,words", [
    (("model.trained_length=16",), "32 tokens are more than trained_length=16"), (("objective=MaskedLM()", "model=EncoderLM(vocab_size=257)"), "learned MaskedLM"),
    (("model.blocks.0.mixer.implementation=pallas",), "implementation=pallas needs a GPU or TPU"), (("data.tokenizer=BPE(260)",), "fitted its tokenizer to another text"),
])  # fmt: skip
def test_a_reference_that_cannot_score_is_refused(folder, tmp_path, lines, words):
    for i in range(9):
        (tmp_path / f"{i}.txt").write_text(f"zebras jump quickly over {i} lazy foxes")
    elsewhere = ("data.sequence_length=16", "data.held_out=0.3", f"data.source=TextFiles({str(tmp_path)!r})")
    experiment = load_config(str(folder / "config.py"), (*lines, *elsewhere))
    write_config(tmp_path / "reference", experiment)
    prepare(experiment.data).codec.save(tmp_path / "reference")
    select, tokenizer = f"select=RHOLoss(keep=0.5,reference={str(tmp_path / 'reference')!r})", [line for line in lines if "tokenizer" in line]
    result = CliRunner().invoke(main, ["train", str(folder / "config.py"), select, *tokenizer, "--run-dir", str(tmp_path / "run"), "--quiet"])
    assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_ranks_the_records_of_another(folder, tmp_path):
    effllm("train", folder / "config.py", "steps=4", "--run-dir", tmp_path / "ranker", "--quiet")
    effllm("eval", tmp_path / "ranker", "--row-losses", tmp_path / "losses.npy")
    line = f"data.curriculum=Paced(ByScores({str(tmp_path / 'losses.npy')!r}),StepPacing(start=0.1,duration=1.0))"
    experiment = load_config(str(folder / "config.py"), (line,))
    dataset, losses = prepare(experiment.data), np.load(tmp_path / "losses.npy")
    with dataset.train_batches(seed=0, batch_size=4, curriculum=experiment.data.curriculum, steps=12) as batches:
        easy = {row.tobytes() for _ in range(10) for row in next(batches)["tokens"]}
    stored = [row.tobytes() for batch in dataset.held_out_batches(batch_size=1, split="train") for row in batch["tokens"]]
    assert len(stored) == len(losses) and easy <= {stored[i] for i in np.argsort(losses, kind="stable")[: -(-len(losses) // 10)]}


def test_selection_does_not_depend_on_the_mesh(folder):
    def losses(*mesh):
        experiment = load_config(str(folder / "config.py"), ("select=TopLoss(keep=0.5)", "data.batch_size=8", "model.blocks.0.dropout=0.0", *mesh))
        return trained(assemble(experiment), prepare(experiment.data), assemble(experiment).init(), 0, 2)[1]

    there = losses("mesh.data=2", "mesh.fsdp=2", "accumulate=1")
    assert np.array(there) == pytest.approx(np.array(losses()), rel=1e-5)


@pytest.mark.parametrize("lines,words", [
    (("select=TopLoss(keep=1.5)",), "select.keep=1.5"), (("select=TopLoss(keep=0.75)", "accumulate=2"), "select.keep=0.75 of data.batch_size=4=3 is not divisible"),
    (("select=RHOLoss(keep=0.5)",), "needs reference"), (("data.curriculum=Pased()",), "did you mean Paced"), (("data.curriculum=Bytes()",), "curriculum is Curriculum"),
    (("select=RHOLoss(reference='nowhere')",), "not a run directory"),
    (("select=TopLoss()", "model=EncoderLM(vocab_size=256)", "objective=MaskedLM()"), "needs objective=NextToken()"),
])  # fmt: skip
def test_refusals_are_one_line(folder, tmp_path, lines, words):
    result = CliRunner().invoke(main, ["train", str(folder / "config.py"), *lines, "--run-dir", str(tmp_path / "run"), "--quiet"])
    assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1, result.stderr
