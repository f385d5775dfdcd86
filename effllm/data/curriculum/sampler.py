"""Which sequences a step reads: a pure function of (seed, step), so that resuming needs only the step."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from effllm.data.curriculum.pacing import Pacing
from effllm.data.dataset import Dataset
from effllm.data.packing import unpack


@functools.partial(jax.jit, static_argnames=("batch_size",))
def paced_batch(seed: jax.Array, step: jax.Array, order_n: jax.Array, share: jax.Array, batch_size: int) -> jax.Array:
    """index_b: batch_size draws, uniform with replacement, from the first ⌈share·N⌉ of order_n (Bengio et al. 2009; arXiv 1903.09848, algorithm 1)."""
    pool = jnp.clip(jnp.ceil(share * len(order_n) - 1e-4), 1, len(order_n)).astype(jnp.int32)
    draw = jax.random.fold_in(jax.random.key(seed), step)
    return order_n[jax.random.randint(draw, (batch_size,), 0, pool)]


class CurriculumBatches(Iterator[dict[str, np.ndarray]]):
    """Endless batches of the training records of `dataset`, paced by difficulty, from step `start` on.

    order_n: records from the first to be read to the last, of ease_first(); `rows`: the rows of the global batch to deliver. Shapes are those of
    Dataset.train_batches(). Raises ValueError for an order that is not one of the records.
    """

    def __init__(
        self, dataset: Dataset, order_n: np.ndarray, pacing: Pacing, *, seed: int, batch_size: int, steps: int, start: int = 0, rows: range | None = None,
    ):
        self._records, count = dataset._records("train"), dataset.records("train")
        if not np.array_equal(np.sort(order_n), np.arange(count)):
            raise ValueError(f"the order is none of the {count} training records: it must hold each of 0 … {count - 1} once")
        self._order, self._pacing, self._steps = jnp.asarray(order_n, jnp.int32), pacing, steps
        self._seed, self._batch_size, self._step = seed, batch_size, start
        self._rows = range(batch_size) if rows is None else rows
        self._identity = {"seed": seed, "batch_size": batch_size, "sequence_length": dataset.length, "data_digest": dataset.manifest["digest"]}

    def __next__(self) -> dict[str, np.ndarray]:
        share = self._pacing(self._step, self._steps)
        index_b = np.asarray(paced_batch(self._seed, self._step, self._order, share, self._batch_size))
        self._step += 1
        return unpack(*self._records.read([int(index_b[row]) for row in self._rows]))

    def state(self) -> dict[str, Any]:
        """The next step and what the order depends on, for Dataset.check_state(), beside the same order and pacing."""
        return {"step": self._step, **self._identity}
