"""What the experiments over mixers share: their list, their cost over the length, and small models of equal size trained on equal tokens."""

import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from effllm import nn
from effllm.data import Embedded
from experiments.small_runs import Arrays, held_out, packed, rows, shuffled, train

WIDTH, DEPTH, LENGTH, BATCH = 64, 2, 256, 8


def mixers(*modules: str) -> dict[str, nn.Mixer]:
    """Every public mixer of effllm.nn as it is by default, by the name of its class; of the `modules` of effllm.nn where any are given."""
    classes = [getattr(nn, name) for name in nn.__all__]
    found = [c for c in classes if isinstance(c, type) and issubclass(c, nn.Mixer) and c is not nn.Mixer]
    return {c.__name__: c() for c in found if not modules or c.__module__.removeprefix("effllm.nn.") in modules}


def cost(mixer: nn.Mixer, lengths: Sequence[int], width: int = WIDTH) -> list[dict[str, float]]:
    """Seconds (least of 3) and temporary bytes of one layer's forward and backward pass over one text of each length."""
    found = []
    for length in lengths:
        x_btd = jax.random.normal(jax.random.key(0), (1, length, width))
        positions = jnp.arange(length, dtype=jnp.int32)[None]
        params = meta.unbox(jax.jit(lambda: mixer.init(jax.random.key(1), x_btd[:, :8], positions=positions[:, :8], segment_ids=None))())

        def loss(params, x_btd):
            return jnp.sum(jnp.sin(mixer.apply(params, x_btd, positions=positions, segment_ids=None)[0]))

        step = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, x_btd).compile()
        times = []
        for _ in range(4):
            start = time.perf_counter()
            jax.block_until_ready(step(params, x_btd))
            times.append(time.perf_counter() - start)
        found.append({"length": length, "seconds": min(times[1:]), "bytes": step.memory_analysis().temp_size_in_bytes})
    return found


def exponent(costs: Sequence[dict[str, float]], what: str) -> float:
    """The slope of log cost over log length, over the longer half of the lengths."""
    half = costs[len(costs) // 2 :] if len(costs) > 3 else costs
    return float(np.polyfit(np.log([c["length"] for c in half]), np.log([c[what] for c in half]), 1)[0])


def state_bytes(mixer: nn.Mixer, length: int, width: int = WIDTH) -> int | None:
    """Bytes that decoding one row of `length` tokens keeps; None where the mixer does not decode."""
    if not mixer.causal:
        return None
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(jax.eval_shape(lambda: mixer.init_state(1, length, width, jnp.float32))))


def parameters(model: nn.LanguageModel) -> int:
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32)))
    return sum(a.size for a in jax.tree.leaves(meta.unbox(shapes)["params"]))


def sized(mixer: nn.Mixer, budget: int | None = None, width: int = WIDTH, depth: int = DEPTH) -> nn.LanguageModel:
    """A byte-level decoder, or an encoder where the mixer sees both sides; with a budget, the feed-forward width makes up its parameters to within a step of 8."""

    def model(hidden: int | None) -> nn.LanguageModel:
        blocks = (nn.Block(mixer, nn.SwiGLU(hidden=hidden)),)
        if mixer.causal:
            return nn.DecoderLM(vocab_size=256, width=width, depth=depth, blocks=blocks)
        return nn.EncoderLM(vocab_size=257, width=width, depth=depth, blocks=blocks)

    if budget is None:
        return model(None)
    least = parameters(model(8))
    per_8 = parameters(model(16)) - least
    return model(8 + 8 * max(0, round((budget - least) / per_8)))


@functools.cache
def text() -> tuple[Arrays, Arrays]:
    """(training rows, held-out rows) of the embedded corpus."""
    texts = [d.text for d in Embedded().documents() if d.text.isascii()]
    order = np.random.default_rng(0).permutation(len(texts))
    data, test = packed([texts[i] for i in order[60:660]], LENGTH), packed([texts[i] for i in order[:60]], LENGTH)
    return data, rows(test, np.random.default_rng(1).permutation(len(test["tokens"]))[:128])


def trained(model: nn.LanguageModel, steps: int, seed: int, rate: float) -> dict[str, Any]:
    """Held-out bits a byte (of masked bytes for an encoder) after `steps`, and training tokens a CPU second."""
    data, test = text()
    objective = nn.NextToken() if model.decodes else nn.MaskedLM()
    seconds = [0.0]
    params, history = train(
        shuffled(data, seed, BATCH), steps, seed=seed, model=model, rate=rate, objective=objective, every=steps,
        look=lambda step, params, spent: seconds.append(spent),
    )  # fmt: skip
    bits = held_out(params, test, model, size=32, objective=objective) / np.log(2)
    return {"bits": float(bits), "tokens_per_second": BATCH * LENGTH * (steps - 1) / max(seconds[-1], 1e-9), "skipped": history[-1]["skipped"]}


def tuned(model: nn.LanguageModel, steps: int, seeds: Sequence[int], rates: Sequence[float]) -> dict[str, Any]:
    """The best of the learning rates by the first seed, then all seeds at it."""
    tried = {rate: trained(model, steps, seeds[0], rate) for rate in rates}
    best = min(tried, key=lambda rate: tried[rate]["bits"])
    runs = [tried[best], *(trained(model, steps, seed, best) for seed in seeds[1:])]
    bits = [run["bits"] for run in runs]
    return {
        "rate": best, "tried": {str(rate): run["bits"] for rate, run in tried.items()}, "bits": bits, "mean": float(np.mean(bits)), "std": float(np.std(bits, ddof=1)),
        "tokens_per_second": float(np.median([run["tokens_per_second"] for run in runs])), "parameters": parameters(model),
    }  # fmt: skip
