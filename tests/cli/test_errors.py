"""Bad input: one clear line on stderr that names what is wrong and the remedy, exit code 2, and nothing lost."""

import json
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from effllm.cli import main
from tests.laws.test_training import environment


def effllm(*args):
    """(exit code, stderr, stdout) of a command."""
    result = CliRunner().invoke(main, [str(a) for a in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr, result.stdout


def refused(*args):
    """The one line on stderr of a command that must fail with exit code 2."""
    code, err, _ = effllm(*args, *(["--quiet"] if args[0] == "train" else []))
    assert code == 2, err
    assert err.startswith("effllm: ") and err.count("\n") == 1, err
    return err


@pytest.fixture(scope="module")
def config(tiny_config, tmp_path_factory):
    return tiny_config(tmp_path_factory.mktemp("errors"), steps=6, log_every=1, save_every=2) / "config.py"


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """A finished run of six steps."""
    run = tmp_path_factory.mktemp("trained") / "run"
    code, err, _ = effllm("train", config, "--run-dir", run, "--quiet")
    assert code == 0, err
    return run


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the run that may be broken."""
    return shutil.copytree(trained, tmp_path / "copy")


@pytest.mark.parametrize(
    "text,words",
    [
        ("model.widht=3", ["model.widht", "no field 'widht'", "did you mean width"]),
        ("modle.width=3", ["no field 'modle'", "did you mean model"]),
        ("model.blocks.0.mixer=Atention(heads=2)", ["no class 'Atention'", "did you mean Attention"]),
        ("model.blocks.0.mixer=Attention(head=2)", ["Attention has no field 'head'", "heads"]),
        ("data.source=TFDS()", ["TFDS needs name"]),
        ("model.blocks.0.mixer=Attention(name='a')", ["Attention has no field 'name'"]),
        ("model.blocks.0.mixer=Mamba", ["did you mean Mamba()?"]),
        ("model.blocks.0.mixer=Atention", ["mixer is Mixer", "did you mean Attention()"]),
        ("model.blocks=(Block,)", ["did you mean Block()?"]),
        ("optimizer=Adam", ["did you mean AdamW()?"]),
        ("select=TopLos", ["did you mean TopLoss() or SoftLoss()?"]),
        ("model.blocks.0.mixer=SwiGLU()", ["Block.mixer is Mixer"]),
        ("model.blocks.1.mixer.heads=4", ["blocks has 1 elements", "there is no 1"]),
        ("optimizer.learning_rate=abc", ["optimizer.learning_rate=abc", "learning_rate is float"]),
        ("optimizer.learning_rate=-1e-3", ["optimizer.learning_rate=-0.001 must be finite and not negative"]),
        ("optimizer.learning_rate=1e999", ["optimizer.learning_rate=inf must be finite"]),
        ("steps=1.5", ["steps=1.5", "steps is int"]),
        ("model.tied=3", ["model.tied=3", "is bool"]),
        ("model.remat=most", ["model.remat=most", "'full' or 'dots'"]),
        ("steps", ["'steps' is not path=value"]),
        ("steps=0", ["steps=0 must be at least 1"]),
        ("steps=4294967296", ["steps=4294967296 must be less than 2^31"]),
        ("optimizer.learning_rate=-'a'", ["neither a Python literal"]),
        ("model.blocks.².mixer.heads=4", ["blocks has 1 elements", "there is no ²"]),
        ("seed=4294967296", ["seed=4294967296 must be a number from 0 to 4294967295"]),
        ("model.blocks.0.mixer.heads=5", ["width=32", "heads=5"]),
        ("model.blocks.0.mixer.kv_heads=3", ["heads=2 is not a multiple of kv_heads=3"]),
        ("model.blocks.0.mixer.head_dim=7", ["RoPE", "head_dim=7"]),
        ("model.depth=0", ["depth=0"]),
        ("model.blocks.0.mixer.implementation=pallas", ["model.blocks.0.mixer.implementation=pallas needs a GPU or TPU, here is a cpu", "implementation=None"]),
        ("objective.implementation=pallas", ["set objective.implementation=None"]),
        ("mesh.data=3", ["data.batch_size=4", "data×fsdp=3"]),
        ("mesh.data=16", ["needs 16 devices, here are 8", "--xla_force_host_platform_device_count=16"]),
        ("accumulate=3", ["data.batch_size=4", "accumulate=3"]),
        ("data.batch_size=0", ["batch_size=0"]),
        ("data.batch_size=100000", ["shorter than one batch", "lower data.batch_size"]),
        ("data.source.path=nowhere", ["nowhere"]),
        ("model.trained_length=16", ["32 tokens are more than trained_length=16", "or None to go on unchecked"]),
        ("model.input_position=Learned(length=16)", ["32 tokens are more than the 16 positions of input_position=Learned"]),
        ("model.vocab_size=100", ["model.vocab_size=100", "256 tokens"]),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bad_overrides(config, tmp_path, text, words):
    line = refused("train", config, text, "--run-dir", tmp_path / "run")
    assert all(w in line for w in words), line
    assert not (tmp_path / "run" / "config.json").exists()


def test_heads_that_the_tensor_axis_does_not_divide(config, tmp_path):
    line = refused("train", config, "mesh.tensor=4", "--run-dir", tmp_path / "run")
    assert "heads=2" in line and "tensor" in line


@pytest.mark.parametrize(
    "body,words",
    [
        ("def config(:\n", [":1:", "syntax"]),
        ("x = 1\n", ["no function config()"]),
        ("def config(): return 3\n", ["returned int, not an Experiment"]),
        ("from effllm.nn import DecoderLM\ndef config():\n    return DecoderLM(widht=3)\n", [":3:", "widht", "did you mean width"]),
        ("from effllm.nn import Atention\ndef config(): pass\n", [":1:", "Atention", "did you mean Attention"]),
        ("from effllm.config import Experiment\nfrom effllm.nn import *\ndef config():\n    return Experiment(model=DecoderLM(width='x'))\n", ["model.width='x'", "is int"]),
    ],
    ids=["syntax", "no function", "wrong type", "wrong field", "wrong class", "wrong value"],
)
def test_bad_config_files(tmp_path, body, words):
    (tmp_path / "bad.py").write_text(body)
    line = refused("show", tmp_path / "bad.py")
    assert all(w in line for w in words), line


def test_a_config_file_that_is_not_there():
    assert "there is no config file configs/frist.py; did you mean configs/first.py" in refused("show", "configs/frist.py")


@pytest.mark.parametrize("content,words", [(b"", "empty"), (b"ab\0c", "binary"), (b"ab\xff\xfe", "UTF-8")], ids=["empty", "binary", "utf-8"])
def test_bad_corpus_files(config, tmp_path, content, words):
    (tmp_path / "bad.txt").write_bytes(content)
    line = refused("train", config, f"data.source.path={tmp_path / 'bad.txt'}", "--run-dir", tmp_path / "run")
    assert "bad.txt" in line and words in line


def test_a_prompt_longer_than_the_context(trained):
    assert "the prompt has 101 tokens" in refused("sample", trained, "--prompt", "x" * 100)
    assert "the prompt has 32 tokens (its start included), the context holds 32" in refused("sample", trained, "--prompt", "x" * 31)
    assert "--tokens 60 must be 1 to 30" in refused("sample", trained, "--prompt", "x", "--tokens", 60)


def test_bad_sampling_options(trained):
    assert "temperature=-1.0" in refused("sample", trained, "--prompt", "x", "--tokens", 3, "--temperature", -1)
    assert "top_p=1.5" in refused("sample", trained, "--prompt", "x", "--tokens", 3, "--top-p", 1.5)


def test_a_run_directory_made_by_another_config(config, copy):
    before = (copy / "metrics.jsonl").read_bytes()
    line = refused("train", config, "model.depth=4", "optimizer.learning_rate=0.5", "--run-dir", copy)
    assert "model.depth was 2, is now 4" in line and "optimizer.learning_rate was 0.003, is now 0.5" in line
    assert (copy / "metrics.jsonl").read_bytes() == before


def test_steps_and_intervals_may_change(config, copy):
    code, err, _ = effllm("train", config, "steps=8", "save_every=3", "log_every=2", "--run-dir", copy, "--quiet")
    assert code == 0, err
    assert [json.loads(line)["step"] for line in (copy / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6, 8]


def test_a_directory_that_is_no_run(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    assert "not a run directory" in refused("train", config, "--run-dir", tmp_path)
    assert "not a run directory" in refused("eval", tmp_path)
    assert "not a run directory" in refused("report", tmp_path)


@pytest.mark.parametrize("cls", ["subprocess.Popen", "os.system", "effllm.cli.rundir.shlex", "flax.linen.functools", "effllm.data.files.Path"])
def test_a_config_json_that_names_foreign_classes_executes_nothing(copy, cls):
    data = json.loads((copy / "config.json").read_text())
    data["model"]["norm"] = {"class": cls, "args": "touch /tmp/executed"}
    (copy / "config.json").write_text(json.dumps(data))
    line = refused("eval", copy)
    assert cls in line


def test_an_unknown_field_in_config_json(copy):
    data = json.loads((copy / "config.json").read_text())
    data["model"]["widht"] = 3
    (copy / "config.json").write_text(json.dumps(data))
    assert "no field 'widht'; did you mean width" in refused("eval", copy)


def test_steps_below_what_is_trained(config, copy):
    before = (copy / "config.json").read_bytes()
    line = refused("train", config, "steps=5", "--run-dir", copy)
    assert "steps=5" in line and "already trained to step 6" in line and "at least 6" in line
    assert (copy / "config.json").read_bytes() == before


def test_a_finished_run_keeps_what_it_cost(config, copy):
    before = json.loads((copy / "result.json").read_text())["cost"]
    assert effllm("train", config, "--run-dir", copy, "--quiet")[0] == 0
    assert json.loads((copy / "result.json").read_text())["cost"] == before
    assert effllm("train", config, "steps=8", "--run-dir", copy, "--quiet")[0] == 0
    assert json.loads((copy / "result.json").read_text())["cost"]["seconds"] != before["seconds"]


def test_where_a_run_began_is_kept(config, copy, trained, tmp_path):
    def began(run):
        return json.loads((run / "run.json").read_text())["init_from"]

    run = tmp_path / "begun"
    for options in (["--init-from", trained], [], ["--init-from", trained]):
        assert effllm("train", config, "--run-dir", run, "--quiet", *options)[0] == 0
        assert began(run) == str(trained)
    line = refused("train", config, "--run-dir", run, "--init-from", copy)
    assert f"began --init-from {trained}" in line
    assert "began without --init-from" in refused("train", config, "--run-dir", copy, "--init-from", trained)
    assert began(copy) is None


def test_a_run_killed_before_its_first_checkpoint_begins_as_it_was_told_to(config, copy, trained):
    """The first loss of a run that begins where another ended is not that of a fresh one."""
    info, fresh = json.loads((copy / "run.json").read_text()), json.loads((copy / "metrics.jsonl").read_text().splitlines()[0])
    (copy / "run.json").write_text(json.dumps(info | {"init_from": str(trained)}))
    shutil.rmtree(copy / "checkpoints")
    assert effllm("train", config, "steps=1", "--run-dir", copy, "--quiet")[0] == 0
    assert json.loads((copy / "metrics.jsonl").read_text().splitlines()[0])["loss"] < fresh["loss"] - 0.1
    assert json.loads((copy / "run.json").read_text())["init_from"] == str(trained)


def test_a_finished_run_without_its_log_is_still_evaluated(config, copy):
    for name in ("metrics.jsonl", "result.json"):
        (copy / name).unlink()
    assert effllm("train", config, "--run-dir", copy, "--quiet")[0] == 0
    assert json.loads((copy / "result.json").read_text())["cost"]["tokens_per_second"] is None


def test_data_that_changed_since_the_run_began(config, copy):
    data = json.loads((copy / "run.json").read_text())
    data["data"]["fingerprint"] = "0" * 64
    (copy / "run.json").write_text(json.dumps(data))
    line = refused("train", config, "--run-dir", copy)
    assert "the text of data.source changed" in line and "0" * 64 not in line
    assert json.loads((copy / "run.json").read_text()) == data
    code, err, _ = effllm("eval", copy)
    assert code == 0 and err.count("the text of data.source is not what") == 1
    (copy / "run.json").unlink()
    assert effllm("eval", copy)[1] == ""


@pytest.mark.parametrize("name", ["config", "result", "run"])
@pytest.mark.parametrize("text,word", [('{"step": 6,', "is not JSON"), ("[]", "not a JSON object"), ("\xff", "is not JSON")])
def test_a_report_of_damaged_json(copy, name, text, word):
    (copy / f"{name}.json").write_bytes(text.encode("latin-1"))
    line = refused("report", copy)
    assert f"{name}.json" in line and word in line and "restore" in line


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def largest(directory):
    return max((f for f in directory.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(config, copy, trained):
    file = largest(copy / "checkpoints" / "6")
    flip(file)
    code, err, out = effllm("eval", copy, "--json")
    assert code == 0 and json.loads(out)["step"] == 4
    assert f"{copy / 'checkpoints' / '6'} is damaged: {file.relative_to(copy / 'checkpoints' / '6')}" in err
    code, err, _ = effllm("train", config, "--run-dir", copy, "--quiet")
    assert code == 0 and "is damaged" in err and (copy / "damaged" / "6").is_dir()
    losses = [[json.loads(line)["loss"] for line in (d / "metrics.jsonl").read_text().splitlines()] for d in (copy, trained)]
    assert losses[0] == losses[1]


def test_every_checkpoint_damaged(copy):
    for step in (copy / "checkpoints").iterdir():
        if step.is_dir():
            largest(step).unlink()
    assert "is missing, and no earlier checkpoint is whole" in effllm("eval", copy)[1].splitlines()[-1]
    assert effllm("eval", copy)[0] == 2


def test_a_run_without_a_checkpoint(copy):
    shutil.rmtree(copy / "checkpoints")
    assert "has no checkpoint yet" in refused("eval", copy)


def test_a_damaged_data_shard(config, copy, tmp_path):
    cache = tmp_path / "cache"
    assert effllm("eval", copy, f"data.cache={cache}")[0] == 0
    shard = largest(cache)
    flip(shard)
    assert shard.name in refused("eval", copy, f"data.cache={cache}")


def test_overrides_of_what_was_trained_are_refused(trained):
    assert "model.depth is part of what was trained" in refused("eval", trained, "model.depth=4")
    assert "needs a GPU or TPU" in refused("eval", trained, "model.blocks.0.mixer.implementation=pallas")
    assert effllm("eval", trained, "model.blocks.0.mixer.implementation=reference")[0] == 0


def test_a_run_that_another_process_holds(config, copy):
    import fcntl

    with open(copy / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another process is training" in refused("train", config, "--run-dir", copy)


def test_ten_steps_in_a_row_that_are_not_finite_stop_the_run(config, tmp_path):
    run = tmp_path / "run"
    line = refused("train", config, "optimizer.learning_rate=1e38", "optimizer.schedule=Constant()", "steps=40", "--run-dir", run)
    assert "10 steps in a row" in line and "last good checkpoint is step" in line and "optimizer.learning_rate" in line
    records = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["gradient_norm"] is None and records[-1]["skipped"] == 10


def test_a_full_disk_leaves_the_last_checkpoint(config, copy):
    """No file may grow beyond what metrics.jsonl needs: the checkpoint's arrays meet the OSError of a full disk."""
    program = f"""
import resource, signal, sys
import effllm.cli, orbax.checkpoint, grain, tensorflow_datasets
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
effllm.cli.main(["train", {str(config)!r}, "steps=12", "save_every=3", "--run-dir", {str(copy)!r}, "--quiet"])
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment() | {"JAX_COMPILATION_CACHE_DIR": ""}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2, done.stderr
    assert "could not save step" in done.stderr and "the checkpoint of step 6 is whole" in done.stderr
    code, _, out = effllm("eval", copy, "--json")
    assert code == 0 and json.loads(out)["step"] == 6
