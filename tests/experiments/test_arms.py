"""Benchmarks with arms that a machine may lack what it takes for: what is not measured stands with its reason, what is measured stays."""

import json
import subprocess
import sys

import jax
import pytest

from experiments.speed import arms, gpu, measure
from experiments.speed.choices import run as choices
from experiments.speed.compiled_kernels import run as compiled_kernels
from experiments.speed.flash_attention import run as flash_attention
from experiments.speed.fused_cross_entropy import run as fused_cross_entropy
from experiments.speed.gpt_350m import run as gpt_350m
from experiments.speed.linear_kernels import run as linear_kernels

GPU = {"lacking": {"jax": None, "torch": None, "fla": "no fla"}, "device": "NVIDIA H100 80GB HBM3", "versions": {"jax": "1"}}
CPU = {"lacking": dict.fromkeys(("jax", "torch", "fla"), "no CUDA device"), "device": None, "versions": {"jax": "1"}}
SIDES = {"ours": arms.Arm("our kernel", "jax", ("1", "2")), "fla": arms.Arm("Triton", "fla", ("2",))}


def test_flops_of_causal_attention():
    # One head of width 1 over two tokens: half of 2 products × 2 FLOPs × 4 pairs; backward has five products where forward has two.
    assert flash_attention.flops(1, 2, 1, 1, backward=False) == 8 and flash_attention.flops(1, 2, 1, 1, backward=True) == 28


def test_a_call_is_timed_by_its_share_of_a_queue(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(arms.time, "perf_counter", lambda: now[0])

    def wait(_):
        now[0] += 0.01 * len(calls)
        calls.clear()

    assert arms.per_call(lambda: calls.append(1), wait) == pytest.approx(0.01)


def words(found):
    return f"{found['ms']} ms"


def rendered(results):
    return "\n".join([*(arms.cell(results, arm, p, words) for arm in SIDES for p in ("1", "2")), *arms.reasons(results, SIDES), ""])


def test_what_is_not_measured_stands_with_its_reason():
    results = {"arms": {"ours": {"1": {"ms": 3}, "2": {"not_run": "failed: too large."}}, "fla": {"2": {"not_run": "no fla"}}}}
    assert rendered(results).splitlines() == [
        "3 ms", "not run", "–", "not run", "- Not run: our kernel (2): failed: too large.", "- Not run: Triton: no fla.",
    ]  # fmt: skip


def test_a_point_that_fails_does_not_hide_the_next(capsys):
    arms.answer(["0", "2"], lambda point: {"ms": 1 // int(point)})
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"point": "0", "not_run": "failed: ZeroDivisionError: integer division or modulo by zero"}, {"point": "2", "ms": 0},
    ]  # fmt: skip


def test_a_process_that_dies_owes_its_points():
    found = dict(arms.asked(sys.executable, "experiments.speed.no_such_benchmark", [], ["1"]))
    assert "ended with 1" in found["1"]["not_run"] and "No module named" in found["1"]["not_run"]


def test_a_process_that_dies_loses_one_point_and_the_rest_are_asked_again(tmp_path, monkeypatch):
    (tmp_path / "dies.py").write_text(
        "import sys\nfor point in sys.argv[2:]:\n    if point == '2': sys.exit('too large')\n    print(f'{{\"point\": \"{point}\", \"ms\": 3}}', flush=True)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = dict(arms.asked(sys.executable, "dies", [], ["1", "2", "3"]))
    assert found == {"1": {"ms": 3}, "2": {"not_run": "failed: its process ended with 1: too large"}, "3": {"ms": 3}}


def test_a_process_that_hangs_is_ended_and_its_answers_stay(tmp_path, monkeypatch):
    (tmp_path / "hangs.py").write_text("import time\nprint('{\"point\": \"1\", \"ms\": 3}', flush=True)\ntime.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(arms, "LONGEST", 2)
    assert dict(arms.asked(sys.executable, "hangs", [], ["1", "2"])) == {"1": {"ms": 3}, "2": {"not_run": "failed: no answer within 2 s"}}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """collect on a machine, and what it asked for."""
    (tmp_path / "README.md").write_text("\n".join(measure.MARKS))
    log = []

    def on(machine, figures, check=False, fresh=False):
        log.clear()
        monkeypatch.setattr(arms, "_probe", lambda python, check: machine)
        monkeypatch.setattr(arms, "asked", lambda python, module, arguments, points: log.append(tuple(points)) or [(p, figures[p]) for p in points])
        arms.collect(tmp_path, "m", SIDES, rendered, sys.executable, check, fresh)
        return tuple(log), json.loads((tmp_path / "results.json").read_text()) if (tmp_path / "results.json").exists() else None

    return on


def test_a_stopped_run_goes_on_where_figures_are_missing(bench):
    asked, results = bench(GPU, {"1": {"ms": 3}, "2": {"not_run": "failed: killed"}})
    assert asked == (("1", "2"),) and results["arms"]["fla"] == {"2": {"not_run": "no fla"}}
    asked, results = bench(GPU, {"2": {"ms": 4}})
    assert asked == (("2",),) and results["arms"]["ours"] == {"1": {"ms": 3}, "2": {"ms": 4}}


def test_figures_survive_a_machine_that_cannot_measure_them(bench, capsys):
    _, before = bench(GPU, {"1": {"ms": 3}, "2": {"ms": 4}})
    assert bench(CPU, {})[1] == before and "Not run here: no CUDA device." in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--fresh"):
        bench(GPU | {"device": "NVIDIA A100"}, {})
    asked, results = bench(GPU | {"device": "NVIDIA A100"}, {"1": {"ms": 5}, "2": {"ms": 6}}, fresh=True)
    assert asked == (("1", "2"),) and results["device"] == "NVIDIA A100"


def test_a_machine_without_a_gpu_records_why_and_a_check_records_nothing(bench):
    assert bench(CPU | {"lacking": GPU["lacking"]}, {"1": {"ms": 3}, "2": {"ms": 4}}, check=True)[1] is None
    asked, results = bench(CPU, {})
    assert asked == () and results["arms"]["ours"] == dict.fromkeys(("1", "2"), {"not_run": "no CUDA device"})
    assert bench(GPU, {"1": {"ms": 3}, "2": {"ms": 4}})[1]["device"] == GPU["device"]  # its reasons are no figures


def without(sides, **measured):
    """Results of a machine without a GPU, but for these figures by arm and point."""
    points = {name: {p: {"not_run": "no GPU"} for p in arm.points} for name, arm in sides.items()}
    for name, figures in measured.items():
        points[name] |= figures
    return {"date": "today", "device": None, "versions": {}, "peers": {}, "arms": points}


def test_the_table_of_flash_attention_has_a_row_for_every_arm():
    ours = {"16384": {"forward": 4 * 16 * 16384**2 * 64 / 400e12, "both": 0.01}}
    text = flash_attention.table(without(flash_attention.sides(), ours=ours))
    assert "| our kernel | not run | not run | not run | not run | 400 (2.75) |" in text and text.count("| PyTorch SDPA | not run |") == 2


def test_the_table_of_linear_kernels_compares_only_what_ran():
    sides = linear_kernels.sides()
    times = {"GLA, pallas": 0.002, "GLA, fla": 0.003, "selective scan, pallas": 0.001}
    text = linear_kernels.table(without(sides, **{name: {"4096x16": {"forward": 0.001, "both": both}} for name, both in times.items()}))
    assert "| GLA, pallas | 1.00 / 2.00 | not run |" in text and "| GLA | GLA, fla | 1.50× | not run |" in text
    assert "| selective scan | flash attention, pallas | not run |" in text
    assert all(f"| {name} |" in text for name in sides) and len(sides) == 15


def test_the_table_of_cross_entropy_takes_the_peak_where_the_device_counts_it():
    kernel, logits = {"seconds": 0.1, "temporary_bytes": 2**30, "peak_bytes": 2**31}, {"seconds": 0.05, "temporary_bytes": 16 * 2**30, "peak_bytes": 20 * 2**30}
    text = fused_cross_entropy.table(without(fused_cross_entropy.sides(), pallas={"8192": kernel}, reference={"8192": logits}))
    assert "| our kernel | 100.0 ms / 1.00 / 2.00 | not run |" in text and "| 10.0× less memory, 0.50× as fast | not run |" in text
    del kernel["peak_bytes"]
    assert fused_cross_entropy.beside({"arms": {"pallas": {"1": kernel}, "reference": {"1": logits}}}, "1").startswith("16.0×")


def test_the_table_of_350m_models_counts_a_peer_s_utilisation_by_our_flops():
    ours = {"tokens_per_second": 131e3, "parameters": 3e8, "training_flops": 1.0, "mfu": 0.4}
    sides = gpt_350m.sides()
    text = gpt_350m.table(without(sides, xla={"Attention": ours}, torch={"Attention": {"tokens_per_second": 163.75e3, "parameters": 3e8}}))
    assert "| effllm, XLA | 131 k, 40% (300 M) | not run |" in text and "| PyTorch, torch.compile | 164 k, 50% (300 M) | – | – | – |" in text
    assert "| the quicker of ours beside its peer (bar 1.0) | 0.80× | not run |" in text


def test_a_report_of_tests_is_counted():
    failure = '<testcase name="c[x]"><failure message="off by 3&#10;more"/></testcase><testcase name="d"><skipped message="no GPU"/></testcase>'
    assert compiled_kernels.counted(f'<testsuites><testsuite><testcase name="a"/><testcase name="b"/>{failure}</testsuite></testsuites>') == {
        "passed": 2, "failed": ["c[x]: off by 3", "d: no GPU"],
    }  # fmt: skip


def test_a_benchmark_that_would_pass_the_time_is_stopped_with_all_that_it_started(monkeypatch, capfd):
    real = subprocess.Popen
    monkeypatch.setattr(gpu.subprocess, "Popen", lambda command, **options: real(["sleep", "60"], **options))
    assert gpu.run("flash_attention", 0.1) == 0 and gpu.run("flash_attention", 0) == 0
    out = capfd.readouterr().out
    assert "flash_attention: stopped" in out and "flash_attention: not run" in out


def test_a_default_is_judged_by_the_quickest_choice():
    found = {"default": 1.2, "chunk 16": 1.0, "chunk 32": 1.3}
    assert choices.slower(found) == ("chunk 16", 1.2)
    first, second, *rest = map(choices.named, choices.OPERATIONS["selective_scan"].shapes)
    results = {"hardware": "h", "versions": {}, "date": "today", "seconds": {"selective_scan": {first: found, second: found | {"default": 1.05}}}}
    text = choices.table(results)
    assert f"| {first} | 1200.0 | 1000.0 | 1300.0 | **1.20** (chunk 16) |" in text and "| 1.05 |" in text
    assert all(f"| {shape} | | | | not run |" in text for shape in rest) and rest


def test_the_quickest_chunks_are_written_beside_other_platforms(monkeypatch, tmp_path):
    monkeypatch.setattr(choices, "TUNED", tmp_path / "tuned.json")
    choices.TUNED.write_text('{"other": {"delta_rule": []}}')
    found = {"default": 1.0, "reference": 0.1, "chunk 16": 3.0, "chunk 32": 2.0, "chunk 64": 4.0, "chunk 128": 5.0}
    choices.tune({"delta_rule": {"1 × 512 × 4 × 64": found}, "attention": {"1 × 512 × 4 × 64": {"default": 1.0, "reference": 2.0}}})
    rows = {"delta_rule": [{"shape": [1, 512, 4, 64], "chunk": 32}]}
    assert json.loads(choices.TUNED.read_text()) == {"other": {"delta_rule": []}, jax.default_backend(): rows}


@pytest.mark.parametrize("standing,wanted", [(None, 32), (16, 32), (64, 64), (8, 32)])
def test_a_chunk_that_stands_gives_way_to_more_than_noise(standing, wanted):
    found = {"default": 1.0, "reference": 0.1, "chunk 16": 3.0, "chunk 32": 2.0, "chunk 64": 2.1, "chunk 128": 5.0}
    assert choices.quickest_chunk(choices.OPERATIONS["delta_rule"], found, standing) == wanted
