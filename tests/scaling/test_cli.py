"""effllm scaling as a user types it: results, and one line for what is wrong."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from effllm.cli import main
from effllm.scaling import Chinchilla, LogHuber, Routed, Runs, fit, read_csv, read_directories, solver

LAW = Chinchilla()


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    budgets, ratios = np.geomspace(1e18, 1e20, 4), np.geomspace(0.15, 6, 8)
    rows = [(n, c / (6 * n), c) for c in budgets for n in 0.09 * (c / 6) ** 0.513 * ratios]
    n, d, c = np.array(rows).T
    loss = LAW(n, d) * np.exp(0.003 * rng.standard_normal(len(n)))
    write(tmp_path / "runs.csv", {"params": n, "tokens": d, "flops": c, "loss": loss})
    return tmp_path / "runs.csv"


def write(path, columns):
    lines = [",".join(columns)] + [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    Path(path).write_text("\n".join(lines) + "\n")


def effllm(*arguments):
    return CliRunner().invoke(main, ["scaling", *map(str, arguments)])


def refused(*arguments):
    result = effllm(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = [x for x in result.stderr.splitlines() if not x.startswith("effllm: only 1")]
    return line


def test_fit_writes_what_a_machine_reads_and_a_picture(file):
    result = effllm("fit", file, "--bootstrap", 40, "--json", "fit.json")
    assert result.exit_code == 0, result.output
    found = json.loads(Path("fit.json").read_text())
    assert set(found) >= {"law", "params", "objective", "converged", "n_starts_at_best", "ci"} and found["converged"] is True
    assert found["params"] == pytest.approx(fit(Chinchilla, read_csv(file), loss=LogHuber()).params)
    assert all(low < found["params"][n] < high for n, (low, high) in found["ci"].items()) and len(found["ci"]) == 5
    assert result.stdout.splitlines()[0] == "scaling-fit.png" and Path("scaling-fit.png").stat().st_size > 10_000
    assert effllm("fit", file, "--bootstrap", 40, "--json", "again.json").exit_code == 0
    assert json.loads(Path("again.json").read_text()) == found


def test_optimal_from_runs_and_from_a_fit(file):
    result = effllm("optimal", file, "--budget", "1e21", "--bootstrap", 40, "--json", "plan.json")
    assert result.exit_code == 0, result.output
    plan = json.loads(Path("plan.json").read_text())
    assert plan["plan"]["params"] * plan["plan"]["tokens"] * 6 == pytest.approx(1e21) and plan["ci"]["loss"][0] < plan["plan"]["loss"] < plan["ci"]["loss"][1]
    assert effllm("fit", file, "--bootstrap", 0, "--json", "fit.json").exit_code == 0
    limited = effllm("optimal", "fit.json", "--budget", "1e22", "--unique-tokens", "1e9", "--json", "limited.json")
    assert limited.exit_code == 0 and "R_D* = 15.4" in limited.stderr
    assert json.loads(Path("limited.json").read_text())["plan"]["epochs"] > 4


def test_a_budget_beyond_all_runs_is_answered_with_a_warning(file):
    result = effllm("optimal", file, "--budget", "1e24", "--bootstrap", 0, "--json", "plan.json")
    assert result.exit_code == 0 and "times the largest run" in result.stderr and "times the largest run" in json.loads(Path("plan.json").read_text())["warning"]


def test_a_machine_turns_hours_into_a_budget(file):
    result = effllm("optimal", file, "--bootstrap", 0, "--device", "NVIDIA H200", "--devices", 2, "--hours", 1, "--price", 3, "--json", "plan.json")
    assert result.exit_code == 0, result.output
    plan = json.loads(Path("plan.json").read_text())["plan"]
    assert plan["flops"] == pytest.approx(2 * 989e12 * 0.4 * 3600) and plan["hours"] == pytest.approx(1) and plan["money"] == pytest.approx(6)


def test_experts(file):
    n, e = (a.ravel() for a in np.meshgrid([2e7, 1e8, 5e8], [1.0, 4, 16, 64, 256]))
    write("routed.csv", {"params": n, "tokens": np.full(15, 1.3e11), "experts": e, "loss": Routed(-0.082, -0.108, 0.009, 1.104, 1.847, 314.478)(n, e) * np.exp(0.001 * np.sin(np.arange(15)))})
    result = effllm("optimal", "routed.csv", "--law", "routed", "--experts", "1,8,64", "--total-params", "1e9", "--bootstrap", 0, "--json", "plan.json")
    assert result.exit_code == 0, result.output
    assert json.loads(Path("plan.json").read_text())["plan"]["experts"] in (1, 8, 64)
    assert "needs --experts" in refused("optimal", "routed.csv", "--law", "routed", "--budget", "1e20")


def test_isoflop_and_holdout(file):
    assert effllm("isoflop", file, "--method", "parabola", "--json", "iso.json").exit_code == 0
    found = json.loads(Path("iso.json").read_text())
    assert found["exponent"] == pytest.approx(0.513, abs=0.08) and found["ci"]["exponent"][0] < found["exponent"] < found["ci"]["exponent"][1]
    assert effllm("holdout", file, "--largest", 8, "--bootstrap", 20, "--json", "held.json").exit_code == 0
    assert json.loads(Path("held.json").read_text())["mean_error"] < 0.02


def test_design_writes_a_sweep_that_effllm_can_show(file, tiny_config, tmp_path):
    folder = tiny_config(tmp_path / "config")
    n, d = (a.ravel() for a in np.meshgrid([2e4, 4e4, 8e4], [1e6, 4e6, 1.6e7]))
    write("small.csv", {"params": n, "tokens": d, "loss": Chinchilla(1.3, 30.0, 60.0, 0.3, 0.3)(n, d) * np.exp(0.002 * np.random.default_rng(0).standard_normal(9))})
    result = effllm("design", "small.csv", "--budget", "1e12", "--runs", 3, "--config", folder / "config.py", "--json", "design.json")
    assert result.exit_code == 0, result.output
    found = json.loads(Path("design.json").read_text())
    assert sum(r["flops"] for r in found["runs"]) <= 1e12
    commands = [x.split() for x in Path("sweep.sh").read_text().splitlines() if x.startswith("effllm")]
    assert len(commands) == len(found["runs"])
    shown = CliRunner().invoke(main, ["show", *commands[0][2:], "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["cost"]["parameters"] == pytest.approx(found["runs"][0]["params"], rel=0.5)


def test_a_missing_column_names_those_found(file):
    write("other.csv", {"N": [1e8], "D": [1e9], "loss": [3.0]})
    assert "no column 'params' for params; it has N, D, loss: map one with --column params=NAME" in refused("fit", "other.csv")
    assert "no law takes a column 'parms'; did you mean params" in refused("fit", "other.csv", "--column", "parms=N")
    assert "no column 'X' for tokens; it has N, D, loss" in refused("fit", "other.csv", "--column", "params=N", "--column", "tokens=X")


@pytest.mark.parametrize("loss,words", [
    ("nan", "'loss' is not a number or not finite in 1 of 32 runs (row 1)"), ("0", "'loss' is zero or negative in 1 of 32 runs"),
    ("-2", "'loss' is zero or negative"), ("", "'loss' is not a number or not finite"), ("diverged", "has 'diverged' in row 1, which is no number"),
])  # fmt: skip
def test_bad_losses(file, loss, words):
    lines = file.read_text().splitlines()
    lines[1] = ",".join([*lines[1].split(",")[:3], loss])
    file.write_text("\n".join(lines))
    assert words in refused("fit", file)


def test_losses_in_another_unit_are_asked_about(file):
    runs = read_csv(file)
    for factor, words in ((0.2, "bits per byte"), (5.0, "bits a token")):
        write("bits.csv", {**runs.columns, "loss": factor * runs["loss"]})
        assert words in refused("fit", "bits.csv") and "nats" in refused("fit", "bits.csv")
        assert effllm("fit", "bits.csv", "--unit", "nats", "--bootstrap", 0).exit_code == 0
    write("bits.csv", {**runs.columns, "loss": runs["loss"] / np.log(2)})
    assert read_csv("bits.csv", unit="bits")["loss"] == pytest.approx(runs["loss"])


def test_too_few_runs_and_one_size(file):
    lines = file.read_text().splitlines()
    Path("few.csv").write_text("\n".join(lines[:5]))
    assert "4 runs cannot determine the 5 parameters" in refused("fit", "few.csv")
    runs = read_csv(file)
    write("one.csv", {**runs.columns, "params": np.full(runs.size, 1e8)})
    assert "every run has params=1e+08" in refused("fit", "one.csv")
    Path("none.csv").write_text("params,tokens,loss\n")
    assert "has no runs" in refused("fit", "none.csv")


def test_a_fit_that_did_not_converge_exits_2_and_says_so(file, monkeypatch):
    monkeypatch.setattr(solver, "LIMIT", 1)
    monkeypatch.setattr(solver, "ROUND", 1)
    result = effllm("fit", file, "--json", "fit.json")
    assert result.exit_code == 2 and "NOT CONVERGED" in result.stdout and "did not converge" in result.stderr
    assert json.loads(Path("fit.json").read_text())["converged"] is False
    assert effllm("optimal", file, "--budget", "1e21").exit_code == 2


def test_budgets_that_are_none(file):
    assert "must be a positive number" in refused("optimal", file, "--budget", "-1", "--bootstrap", 0)
    assert "what limits the run?" in refused("optimal", file, "--bootstrap", 0)
    assert "no candidate run costs less" in refused("design", file, "--budget", "1")
    assert "need a --device" in refused("optimal", file, "--hours", 1)


def test_runs_of_effllm_itself(tmp_path):
    for name, size, steps, loss in (("a", 1000, 4, 3.0), ("b", 2000, 6, 2.8)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"cost": {"parameters": size, "training_flops": 6.5 * size}}))
        (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "loss": 5 - s / 10, "tokens": 100.0}) + "\n" for s in range(2, steps + 1, 2)))
        (folder / "result.json").write_text(json.dumps({"held_out": {"loss": loss}}))
    runs = read_directories([tmp_path / "a", tmp_path / "b"])
    assert runs["tokens"].tolist() == [400, 600] and runs["loss"].tolist() == [3.0, 2.8] and runs.flops.tolist() == [6500 * 400, 13000 * 600]
    curves = read_directories([tmp_path / "a", tmp_path / "b"], curves=True)
    assert curves.names == ("a",) * 2 + ("b",) * 3 and curves["tokens"].tolist() == [200, 400, 200, 400, 600]
    os.remove(tmp_path / "b" / "result.json")
    with pytest.raises(ValueError, match="has not finished"):
        read_directories([tmp_path / "b"])
    with pytest.raises(ValueError, match="not a run directory"):
        read_directories([tmp_path])
    assert isinstance(runs, Runs)


def test_options_that_would_not_be_heeded_are_refused(file, tmp_path):
    """What the runs of a fit, a directory or a law cannot take is said, not dropped."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert "--column is for a CSV file" in refused("fit", "a", "b", "--column", "tokens=D")
    assert "--unit is for a CSV file" in refused("fit", "a", "b", "--unit", "bits")
    assert "--budget, --hours or --money has no effect beside --loss" in refused("optimal", file, "--budget", "1e21", "--loss", 2.5)
    assert "--experts has no effect for law chinchilla" in refused("optimal", file, "--budget", "1e21", "--experts", "1,8")
    assert "Chinchilla does not take bits" in refused("optimal", file, "--budget", "1e21", "--bits", "4,8", "--bootstrap", 0)
    assert "draws has no interval" in refused("fit", file, "--bootstrap", -5)


def test_the_json_of_a_fit_is_looked_at(file):
    assert effllm("fit", file, "--bootstrap", 0, "--json", "fit.json").exit_code == 0
    saved = json.loads(Path("fit.json").read_text())
    assert effllm("optimal", "fit.json", "--budget", "1e21", "--law", "chinchilla", "--bootstrap", 0).exit_code == 0
    for option, value in (("--law", "precision"), ("--fix", "E=3"), ("--drop-highest", 3), ("--column", "tokens=D"), ("--seed", 1)):
        assert f"{option} is for a new fit" in refused("optimal", "fit.json", "--budget", "1e21", option, value)
    for change, words in (({"converged": False}, "did not converge"), ({"params": {"E": 1.0, "zz": 2.0}}, "holds no fit"), ({"law": None}, "holds no fit")):
        Path("bad.json").write_text(json.dumps(saved | change))
        assert words in refused("optimal", "bad.json", "--budget", "1e21")
    for content in ("{", "[1]"):
        Path("bad.json").write_text(content)
        assert "is not" in refused("optimal", "bad.json", "--budget", "1e21")


def test_a_loss_that_some_draws_never_reach_has_open_intervals(file):
    floor = fit(Chinchilla, read_csv(file), loss=LogHuber()).params["E"]
    result = effllm("optimal", file, "--loss", floor + 0.005, "--bootstrap", 24, "--json", "plan.json")
    assert result.exit_code == 0, result.output
    assert "have no such plan" in result.stderr and json.loads(Path("plan.json").read_text())["ci"]["params"] == [None, None]


def test_a_fit_without_an_optimum_is_still_a_fit(file):
    runs = read_csv(file)
    write("rates.csv", {**runs.columns, "learning_rate": 2.0 * runs["params"] ** -0.4 * runs["tokens"] ** 0.1})
    assert effllm("fit", "rates.csv", "--law", "learningrate", "--bootstrap", 0).exit_code == 0
    assert effllm("fit", file, "--fix", "alpha=-0.05", "--bootstrap", 0).exit_code == 0


def test_a_law_of_compute_takes_it_from_params_and_tokens(file):
    runs = read_csv(file)
    write("rates.csv", {"params": runs["params"], "tokens": runs["tokens"], "loss": runs["loss"], "learning_rate": 0.3 * runs.flops**-0.125})
    assert effllm("fit", "rates.csv", "--law", "ofcompute", "--bootstrap", 0, "--json", "fit.json").exit_code == 0
    assert json.loads(Path("fit.json").read_text())["params"]["b"] == pytest.approx(-0.125)
