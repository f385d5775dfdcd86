"""How a loop is asked to stop."""

import signal

import pytest

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
