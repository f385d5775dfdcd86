"""What the data experiments share: text to packed rows, and a small decoder trained on whatever batches come."""

import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.core import meta

from effllm.data import Bytes, pack, unpack
from effllm.nn import Attention, Block, DecoderLM, LanguageModel, NextToken, Objective, SwiGLU
from effllm.train import AdamW, Cosine, gradient, init_state, skip_nonfinite, train_step

LENGTH, ROWS = 128, 16
BLOCK = Block(Attention(heads=4), SwiGLU())
MODEL = DecoderLM(vocab_size=256, width=64, depth=2, blocks=(BLOCK,))
CODEC = Bytes().fit(iter(()))

Arrays = dict[str, np.ndarray]


def packed(texts: Sequence[bytes], length: int = LENGTH) -> Arrays:
    """The texts, byte by byte, as rows of a batch: arrays (N, T)."""
    ends = [np.concatenate([[CODEC.bos], CODEC.encode(text), [CODEC.eos]]) for text in texts]
    return unpack(*map(np.stack, zip(*pack(ends, length))))


def rows(data: Arrays, index: np.ndarray) -> Arrays:
    """Some rows."""
    return {name: array[index] for name, array in data.items()}


def shuffled(data: Arrays, seed: int, size: int = ROWS) -> Iterator[Arrays]:
    """Endless batches: every epoch in a new order that depends on the seed."""
    count, epoch = len(data["tokens"]), 0
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(count)
        for at in range(0, count - size + 1, size):
            yield rows(data, order[at : at + size])
        epoch += 1


def initial(seed: int, model: DecoderLM = MODEL) -> Any:
    """Parameters of a seed."""
    return meta.unbox(jax.jit(model.init)(jax.random.key(seed), np.zeros((1, 8), np.int32))["params"])


def whole(grad_fn: Callable) -> Callable:
    """No wrapper."""
    return grad_fn


@functools.cache
def stepper(
    model: LanguageModel, rate: float, warmup: int, steps: int, wrap: Callable[[Callable], Callable], objective: Objective = NextToken()
) -> tuple[Any, Callable]:
    """(optimizer, jitted step), made once for all seeds."""
    tx = skip_nonfinite(AdamW(learning_rate=rate, schedule=Cosine(warmup=warmup)).tx(steps))
    grad_fn = wrap(gradient(functools.partial(objective, model)))
    return tx, jax.jit(functools.partial(train_step, grad_fn=grad_fn, tx=tx), donate_argnums=0)


def train(
    batches: Iterator[Arrays], steps: int, *, seed: int, model: DecoderLM = MODEL, rate: float = 4e-3, warmup: int = 20,
    wrap: Callable[[Callable], Callable] = whole, objective: Objective = NextToken(), model_at: Callable[[int], DecoderLM] | None = None, every: int = 0,
    look: Callable[[int, Any, float], None] = lambda step, params, seconds: None,
) -> tuple[Any, list[dict[str, float]]]:
    """(parameters, metrics of each step). `wrap` wraps the gradient; `look(step, parameters, CPU seconds so far)` is called every `every` steps, off the clock.

    model_at(step): another model over the same parameters at each step. Steps that compile are not timed.
    """
    tx, _ = stepper(model, rate, warmup, steps, wrap, objective)
    state, history, seconds = init_state(initial(seed, model), tx, jax.random.key(seed)), [], 0.0
    for step in range(1, steps + 1):
        _, step_fn = stepper(model_at(step - 1) if model_at else model, rate, warmup, steps, wrap, objective)
        batch, compiled = next(batches), step_fn._cache_size()
        start = time.process_time()
        state, metrics = step_fn(state, batch)
        history.append({name: float(value) for name, value in metrics.items()})
        seconds += (time.process_time() - start) * (step_fn._cache_size() == compiled)
        if every and step % every == 0:
            look(step, state.params, seconds)
    return state.params, history


@functools.partial(jax.jit, static_argnames=("model", "objective"))
def _metrics(params, batch, model, objective):
    return objective(model, params, batch, None)[1]


def held_out(params: Any, data: Arrays, model: LanguageModel = MODEL, size: int = 64, objective: Objective = NextToken()) -> float:
    """Nats a byte over all rows of `data` (the last few that fill no batch are left out)."""
    total = tokens = 0.0
    for at in range(0, len(data["tokens"]) - size + 1, size):
        metrics = _metrics(params, rows(data, np.arange(at, at + size)), model, objective)
        total, tokens = total + float(metrics["loss"] * metrics["tokens"]), tokens + float(metrics["tokens"])
    return total / tokens


def begun(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The results.json of `folder` if it has these settings, else settings without arms: a run that was stopped repeats no arm."""
    path = folder / "results.json"
    saved = json.loads(path.read_bytes()) if path.exists() else {}
    return saved if {name: saved.get(name) for name in settings} == settings else settings | {"arms": {}}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation (n − 1) over seeds."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, "values": [float(v) for v in values]}
