"""What the synthetic tasks share: rows whose answers follow from the row, and small models without feed-forward layers that learn them at several learning rates."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from effllm import nn
from effllm.train import AdamW, Cosine, gradient, init_state, skip_nonfinite, train_step
from experiments.small_runs import Arrays, shuffled, spread

BLOCK = 1000


def distinct(rng: np.random.Generator, rows: int, odds: np.ndarray, count: int) -> np.ndarray:
    """(rows, count) different numbers below len(odds) in each row, drawn one after another with these odds: the largest of log odds + Gumbel noise."""
    blocks = [np.log(odds) + rng.gumbel(size=(min(BLOCK, rows - at), len(odds))) for at in range(0, rows, BLOCK)]
    return np.concatenate([np.argsort(-scores, axis=1)[:, :count] for scores in blocks])


def asked(tokens_nt: np.ndarray, answers_nt: np.ndarray) -> Arrays:
    """A batch whose loss is on the answers alone; −1 where nothing is asked."""
    weights_nt = answers_nt >= 0
    positions_nt = np.broadcast_to(np.arange(tokens_nt.shape[1], dtype=np.int32), tokens_nt.shape)
    return {
        "tokens": tokens_nt.astype(np.int32), "targets": np.where(weights_nt, answers_nt, 0).astype(np.int32),
        "weights": weights_nt.astype(np.float32), "positions": positions_nt, "segment_ids": None,
    }  # fmt: skip


def bare(mixer: nn.Mixer, vocab: int, width: int, depth: int) -> nn.DecoderLM:
    """A decoder of this mixer alone: no feed-forward layers."""
    return nn.DecoderLM(vocab_size=vocab, width=width, depth=depth, blocks=(nn.Block(mixer, None),))


@functools.cache
def learner(model: nn.DecoderLM, steps: int, batch: int) -> Callable:
    """learn(rate, seed, data, rows (steps, batch), test) -> (share of the test's answers that are right, loss (steps,)): one program for all rates and seeds."""
    grad_fn = gradient(functools.partial(nn.NextToken(), model))

    @jax.jit
    def learn(rate, seed, data, rows_sb, test):
        tx = skip_nonfinite(AdamW(learning_rate=rate, schedule=Cosine(warmup=max(1, steps // 10))).tx(steps))
        params = meta.unbox(model.init(jax.random.key(seed), jnp.zeros((1, 8), jnp.int32))["params"])

        def step(state, rows_b):
            return train_step(state, jax.tree.map(lambda a: a[rows_b], data), grad_fn=grad_fn, tx=tx)

        state, metrics = jax.lax.scan(step, init_state(params, tx, jax.random.key(seed)), rows_sb)

        def right(batch):
            logits_btv, _ = model.apply({"params": state.params}, batch["tokens"], positions=batch["positions"])
            return jnp.sum((jnp.argmax(logits_btv, axis=-1) == batch["targets"]) * batch["weights"])

        whole = len(test["tokens"]) // batch * batch
        parts = jax.tree.map(lambda a: a[:whole].reshape(-1, batch, *a.shape[1:]), test)
        return jnp.sum(jax.lax.map(right, parts)) / jnp.sum(parts["weights"]), metrics["loss"]

    return learn


def order(rows: int, steps: int, batch: int, seed: int) -> np.ndarray:
    """(steps, B) rows of the training data: every epoch in a new order that depends on the seed."""
    batches = shuffled({"tokens": np.arange(rows)}, seed, batch)
    return np.stack([next(batches)["tokens"] for _ in range(steps)])


def tuned(
    model: nn.DecoderLM, data: Arrays, test: Arrays, steps: int, batch: int, rates: Sequence[float], seeds: Sequence[int]
) -> dict[str, Any]:
    """The best of the learning rates by the first seed, then all seeds at it: shares of the test's answers that are right, over all whole batches of the test.

    Raises ValueError for less than one batch of training or test rows.
    """
    if min(len(data["tokens"]), len(test["tokens"])) < batch:
        raise ValueError(f"--rows {len(data['tokens'])} and --tests {len(test['tokens'])} must be at least --batch {batch}")
    learn = learner(model, steps, batch)
    data, test = jax.device_put(data), jax.device_put(test)

    def right(rate, seed):
        return float(learn(rate, seed, data, order(len(data["tokens"]), steps, batch, seed), test)[0])

    tried = {rate: right(rate, seeds[0]) for rate in rates}
    best = max(tried, key=tried.get)
    found = [tried[best], *(right(best, seed) for seed in seeds[1:])]
    return {"rate": best, "tried": {f"{rate:g}": share for rate, share in tried.items()}, **spread(found)}
