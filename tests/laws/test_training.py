"""Laws of training: accumulation, NaN, seeds, resuming."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import nn
from effllm.train import AdamW, accumulate, gradient, init_state, skip_nonfinite, train_step
from tests.tiny import batch, close, init, model


@pytest.fixture(scope="module")
def small():
    decoder = model(depth=2, blocks=(nn.Block(nn.Attention(heads=2), nn.SwiGLU(hidden=16), dropout=0.1),))
    params = init(decoder, jnp.zeros((1, 4), jnp.int32))
    return decoder, params, lambda p, b, key: nn.NextToken(z_loss=1e-3)(decoder, p, b, key)


@pytest.mark.parametrize("micro", [2, 4])
def test_accumulation_equals_the_whole_batch(small, micro):
    decoder, params, loss_fn = small
    data = batch(8, 12, 64)
    data["weights"][3] = 0  # micro-batches of different size
    without_dropout = gradient(lambda p, b, key: nn.NextToken(z_loss=1e-3)(decoder, p, b, None))
    whole = jax.jit(without_dropout)(params, jax.tree.map(lambda _: None, params), data, jax.random.key(0))
    parts = jax.jit(accumulate(without_dropout, micro))(params, jax.tree.map(lambda _: None, params), data, jax.random.key(0))
    close(parts, whole, 1e-5)
    assert float(parts[0][1]["tokens"]) == data["weights"].sum()


def test_the_size_of_weights_changes_nothing(small):
    """Selection weighs rows by 1/(N p), so that all of a short micro-batch may weigh less than one token."""
    decoder, params, _ = small
    data = batch(8, 12, 64)
    without_dropout = gradient(lambda p, b, key: nn.NextToken(z_loss=1e-3)(decoder, p, b, None))
    run = jax.jit(accumulate(without_dropout, 2))
    none = jax.tree.map(lambda _: None, params)
    (loss, _), grads = run(params, none, data, jax.random.key(0))
    (light_loss, metrics), light = run(params, none, data | {"weights": data["weights"] / 1024}, jax.random.key(0))
    close((light_loss, light), (loss, grads), 1e-5)
    assert float(metrics["tokens"]) == data["weights"].sum() / 1024 < 1
    (nothing, _), still = run(params, none, data | {"weights": 0 * data["weights"]}, jax.random.key(0))
    assert float(nothing) == 0 and not any(g.any() for g in jax.tree.leaves(still))


@pytest.fixture(scope="module")
def stepper(small):
    _, params, loss_fn = small
    tx = skip_nonfinite(AdamW(learning_rate=1e-2).tx(10))
    step = jax.jit(lambda s, b: train_step(s, b, grad_fn=gradient(lambda p, b, k: _poisoned(loss_fn, p, b, k)), tx=tx))
    return step, lambda seed: init_state(params, tx, jax.random.key(seed))


def _poisoned(loss_fn, params, batch, key):
    loss, metrics = loss_fn(params, {k: v for k, v in batch.items() if k != "poison"}, key)
    return loss * batch["poison"], metrics


def test_a_batch_with_a_nan_leaves_everything_untouched_but_the_count(stepper):
    step, start = stepper
    data = batch(4, 12, 64)
    before, _ = step(start(0), data | {"poison": jnp.float32(1)})
    after, metrics = step(before, data | {"poison": jnp.float32(jnp.nan)})
    for name in ("params", "key"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(before, name))
    jax.tree.map(np.testing.assert_array_equal, after.opt_state.inner_state, before.opt_state.inner_state)
    assert int(metrics["skipped"]) == int(metrics["skipped_in_row"]) == 1 and int(after.step) == 2
    _, metrics = step(after, data | {"poison": jnp.float32(1)})
    assert int(metrics["skipped"]) == 1 and int(metrics["skipped_in_row"]) == 0


def test_the_same_seed_gives_the_same_run_and_another_one_does_not(stepper):
    step, start = stepper

    def losses(seed):
        state, out = start(seed), []
        for i in range(3):
            state, metrics = step(state, batch(4, 12, 64, seed=i) | {"poison": jnp.float32(1)})
            out.append(float(metrics["loss"]))
        return out

    assert losses(1) == losses(1) != losses(2)  # dropout follows the seed


def test_only_floating_leaves_train():
    params = {"frozen": jnp.arange(4, dtype=jnp.int8), "moving": jnp.ones((4,))}
    tx = skip_nonfinite(AdamW(weight_decay=0.0).tx(5))

    def loss_fn(p, b, key):
        return jnp.sum(p["frozen"] * p["moving"] ** 2), {"tokens": jnp.float32(1)}

    state, _ = train_step(init_state(params, tx, jax.random.key(0)), {}, grad_fn=gradient(loss_fn), tx=tx)
    assert state.params["frozen"].dtype == jnp.int8 and (state.params["frozen"] == params["frozen"]).all()
    assert (state.params["moving"][1:] < 1).all()


def command(directory, *more):
    return [sys.executable, "-m", "effllm", "train", str(directory / "config.py"), "--run-dir", str(directory / "run"), "--quiet", *more]


def environment():
    return os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(Path(__file__).parents[2])}


def logged(directory):
    return [(r["step"], r["loss"]) for r in map(json.loads, (directory / "run" / "metrics.jsonl").read_text().splitlines())]


@pytest.fixture(scope="module")
def undisturbed(tiny_config, tmp_path_factory):
    """A directory in which a run went through without a break."""
    directory = tiny_config(tmp_path_factory.mktemp("undisturbed"), steps=60, log_every=1, save_every=7, eval_every=10)
    subprocess.run(command(directory), env=environment(), check=True, timeout=240)
    assert [s for s, _ in logged(directory)] == list(range(1, 61))
    return directory


def wait_for_lines(directory, lines):
    file = directory / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not file.exists() or file.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.005)


def test_killed_runs_continue_bit_for_bit(undisturbed, tiny_config, tmp_path):
    directory = tiny_config(tmp_path, steps=60, log_every=1, save_every=7, eval_every=10)
    rng = random.Random(0)
    for lines in (rng.randint(2, 14), rng.randint(16, 30), rng.randint(32, 55)):
        process = subprocess.Popen(command(directory), env=environment(), stdout=subprocess.DEVNULL)
        wait_for_lines(directory, lines)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with open(directory / "run" / "metrics.jsonl", "a") as f:
        f.write('{"step": 61, "los')  # a torn line
    subprocess.run(command(directory), env=environment(), check=True, timeout=240)
    assert logged(directory) == logged(undisturbed)
    assert (directory / "run" / "eval.jsonl").read_text() == (undisturbed / "run" / "eval.jsonl").read_text()


@pytest.mark.parametrize("number,code", [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_continues(undisturbed, tiny_config, tmp_path, number, code):
    directory = tiny_config(tmp_path, steps=60, log_every=1, save_every=0, eval_every=10)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background ignores SIGINT, and so would its child
    process = subprocess.Popen(command(directory), env=environment(), stdout=subprocess.PIPE, text=True)
    wait_for_lines(directory, 9)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code and f"stopped by {number.name} after step" in said
    assert 9 <= logged(directory)[-1][0] < 60
    subprocess.run(command(directory), env=environment(), check=True, timeout=240)
    assert logged(directory) == logged(undisturbed)


@pytest.mark.parametrize("processes,mesh", [(2, ["mesh.data=2"]), (4, ["mesh.data=2", "mesh.fsdp=2"])])
def test_several_processes_train_the_same_losses(undisturbed, tiny_config, tmp_path, processes, mesh):
    import socket

    directory = tiny_config(tmp_path, steps=60, log_every=1, save_every=25, eval_every=10)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    started = [
        subprocess.Popen(command(directory, *mesh, "--distributed", f"127.0.0.1:{port},{processes},{i}"), env=environment(), stdout=subprocess.DEVNULL)
        for i in range(processes)
    ]
    try:
        assert [p.wait(timeout=240) for p in started] == [0] * processes
    finally:
        for p in started:
            p.kill()
    steps, losses = zip(*logged(directory))
    expected_steps, expected = zip(*logged(undisturbed))
    assert steps == expected_steps
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    result = json.loads((directory / "run" / "result.json").read_text())
    whole = json.loads((undisturbed / "run" / "result.json").read_text())
    assert result["held_out"]["loss"] == pytest.approx(whole["held_out"]["loss"], rel=1e-4)
    assert result["held_out"]["tokens"] == whole["held_out"]["tokens"]
