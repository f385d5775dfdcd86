"""How a loop is asked to stop, and what it says of its speed."""

import itertools
import signal
import time

import jax.numpy as jnp
import pytest

from effllm.train import Every, run
from effllm.train.loop import Stop


@pytest.fixture
def interruptible():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks(interruptible, number):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with Stop().listening() as stop:
        assert not stop(1)
        signal.raise_signal(number)
        assert stop(1) and stop.signal == number.name
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_a_second_interrupt_aborts(interruptible):
    with pytest.raises(KeyboardInterrupt), Stop().listening():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_an_ignored_interrupt_stays_ignored(interruptible):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Stop().listening() as stop:
        signal.raise_signal(signal.SIGINT)
        assert not stop(1)


def test_the_speed_is_that_of_training_not_of_what_is_called_in_between():
    def step(state, _):
        return state, {"loss": jnp.zeros(()), "tokens": jnp.float32(1000), "skipped_in_row": jnp.zeros((), int)}

    said = []
    run(None, step, itertools.count(), start=0, steps=4, log_every=1, callbacks=(Every(1, lambda *_: time.sleep(0.2)),), show=said.append)
    assert [record["step"] for record in said] == [1, 2, 3, 4]
    assert all(record["tokens_per_second"] > 10_000 for record in said[1:])  # 5,000 with the callback's 0.2 s
