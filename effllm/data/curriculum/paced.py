"""Reading by difficulty: the easiest share of the records first, all of them once the pacing has reached 1."""

import hashlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from effllm.data.curriculum.difficulty import ease_first
from effllm.data.curriculum.pacing import Competence, Pacing
from effllm.data.curriculum.ranking import ByRarity, Ranking
from effllm.data.order import Curriculum, Epochs, Plan, ReadRecords


@dataclass(frozen=True)
class Paced(Curriculum):
    """Step t draws its rows from the easiest pacing(t, steps) of the records, uniformly with replacement (arXiv 1903.09848, algorithm 1; survey §4.3).

    From the first step on whose share is 1 every record is read once an epoch, as in plain order. hardest_first: the anti-curriculum, the
    control. Shapes never change. What a run reads depends on its `steps`: one that was begun with others refuses to continue. Memory: 4 bytes
    a record; at the start, one pass over the records (two for ByRarity). Raises ValueError without steps.
    """

    ranking: Ranking = ByRarity()
    pacing: Pacing = Competence()
    hardest_first: bool = False

    def plan(self, dataset, *, seed, batch_size, steps):
        if steps < 1:
            raise ValueError(f"{type(self).__name__} paces a run of known length: steps={steps} must be at least 1")
        order_n = np.asarray(ease_first(jnp.asarray(self.ranking(dataset), jnp.float32), hardest_first=self.hardest_first)).astype(np.int32)
        share_t = np.asarray(jax.vmap(lambda step: self.pacing(step, steps))(jnp.arange(steps)), np.float64)
        pool_t = np.clip(np.ceil(share_t * len(order_n) - 1e-4), 1, len(order_n)).astype(np.int64)
        after = Epochs(range(len(order_n)), seed, batch_size)
        needs = {"steps": steps, "order": hashlib.sha256(order_n.tobytes() + pool_t.tobytes()).hexdigest()[:16]}
        return Plan(ReadRecords(dataset.train_records(), _Drawn(order_n, pool_t, after, seed, batch_size)), needs)


class _Drawn:
    """An Index: draws from the first pool_t[step] of order_n, and after those steps in the order of `after`."""

    def __init__(self, order_n: np.ndarray, pool_t: np.ndarray, after: Epochs, seed: int, batch_size: int):
        self._order, self._after, self._seed, self._batch_size = order_n, after, seed, batch_size
        self._pools = pool_t[: int(np.searchsorted(pool_t, len(order_n)))]

    def __call__(self, step: int, rows: range) -> list[int]:
        if step >= len(self._pools):
            return self._after(step - len(self._pools), rows)
        draw_b = np.random.default_rng((self._seed, step)).integers(0, self._pools[step], self._batch_size)
        return self._order[draw_b[list(rows)]].tolist()
