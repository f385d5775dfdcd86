"""The training loop: dispatch a step, look at the one before, log, call back, save."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax

from effllm.train.checkpoint import Checkpoints
from effllm.train.log import Lines
from effllm.train.step import TrainState, items

PATIENCE = 10


@dataclass(frozen=True)
class Every:
    """Call `function(step, state)` after every `steps` steps, and after the last where `last` is set."""

    steps: int
    function: Callable[[int, TrainState], None]
    last: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a loop ended: the state, the finished step it began with, its step now, and the signal that stopped it, if one did."""

    state: TrainState
    start: int
    step: int
    stopped: str | None = None


class Stop:
    """Whether this run was asked to stop; several processes agree on the step."""

    def __init__(self):
        self.signal: str | None = None

    def __call__(self, step: int) -> bool:
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(step):
                self.signal = "SIGTERM"
        return self.signal is not None

    @contextmanager
    def listening(self):
        """Within this block, SIGTERM and the first SIGINT ask for a stop instead of killing; a second SIGINT aborts at once."""

        def remember(number, _frame):
            if number == signal.SIGINT:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            self.signal = signal.Signals(number).name

        if jax.process_count() > 1:  # the distributed runtime listens itself
            yield self
            return
        heard = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, remember) for number in heard}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Log:
    """Fetches each step's metrics once the next step is dispatched, and logs every `every`-th. Its tokens a second leave out what `aside` times."""

    def __init__(self, lines: Lines | None, every: int, steps: int, good_step: Callable[[], int | None], show: Callable[[dict], None]):
        self.lines, self.every, self.steps, self.good_step, self.show = lines, every, steps, good_step, show
        self.pending: tuple[int, dict[str, jax.Array]] | None = None
        self.tokens, self.since = 0.0, time.perf_counter()

    def push(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Take over this step's metrics, and deal with those of the step before."""
        before, self.pending = self.pending, (step, metrics)
        self._settle(before)

    def flush(self) -> None:
        """Deal with what is pending; afterwards its line is on the disk."""
        before, self.pending = self.pending, None
        self._settle(before)
        if self.lines is not None:
            self.lines.sync()

    @contextmanager
    def aside(self):
        """Within this block, where nothing is pending, the time is not training's."""
        self.flush()
        began = time.perf_counter()
        yield
        self.since += time.perf_counter() - began

    def _settle(self, pending) -> None:
        if pending is None:
            return
        step, metrics = pending[0], {k: v.item() for k, v in jax.device_get(pending[1]).items()}
        self.tokens += metrics["tokens"]
        in_row = metrics.pop("skipped_in_row")
        if step % self.every == 0 or step == self.steps:
            now = time.perf_counter()
            record = {"step": step} | metrics | {"tokens_per_second": self.tokens / (now - self.since)}
            self.tokens, self.since = 0.0, now
            if self.lines is not None:
                self.lines.append(record)
            self.show(record)
        if in_row >= PATIENCE:
            good = self.good_step()
            kept = "no checkpoint was written yet" if good is None else f"the last good checkpoint is step {good}"
            raise ValueError(f"loss or gradient was not finite {in_row} steps in a row, up to step {step}; {kept}; lower optimizer.learning_rate")


def run(
    state: TrainState,
    step_fn: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
    batches: Iterator[Any],
    *,
    start: int,
    steps: int,
    log_every: int = 10,
    save_every: int = 0,
    checkpoints: Checkpoints | None = None,
    extra: Callable[[], dict[str, Any]] = dict,
    lines: Lines | None = None,
    callbacks: tuple[Every, ...] = (),
    show: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Outcome:
    """Train from finished step `start` to `steps`, or until SIGTERM or SIGINT; all end with a checkpoint.

    The host looks at a step's metrics only when the next one is on its way, so the device never waits. Before a save the pending line is
    written and synced: a checkpoint never knows more than metrics.jsonl. `extra()` is the JSON saved along (the data's position).
    Raises ValueError after ten steps in a row that were not finite, naming the last good checkpoint.
    """

    def good_step():
        if checkpoints is None:
            return None
        checkpoints.wait()
        return max(checkpoints.steps(), default=None)

    log = Log(lines, log_every, steps, good_step, show)
    stop = Stop()
    step = saved = start

    def save():
        log.flush()
        if checkpoints is not None:
            checkpoints.save(step, items(state), extra())

    with stop.listening():
        while step < steps and not stop(step):
            state, metrics = step_fn(state, next(batches))
            step += 1
            log.push(step, metrics)
            for every in callbacks:
                if (every.steps and step % every.steps == 0) or (every.last and step == steps):
                    with log.aside():
                        every.function(step, state)
            if save_every and step % save_every == 0:
                save()
                saved = step
        if step != saved:
            save()
        log.flush()
        if checkpoints is not None:
            checkpoints.wait()
    return Outcome(state, start, step, stop.signal)
