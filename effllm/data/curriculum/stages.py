"""Curriculum by stages of mixtures: which domains are read when.

Letters: k domain, b row of the batch.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from effllm.data.curriculum.mixing import Mixing


@dataclass(frozen=True)
class Stages(Mixing):
    """weights[i] over the domains from share starts[i] of the steps on; with `blend` they change linearly from one start to the next.

    As in the annealing stages of recent recipes (Llama 3, arXiv 2407.21783, §3.4.3). Raises ValueError for starts that do not ascend from 0
    and weights that are negative or all zero.
    """

    starts: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    blend: bool = False

    def __post_init__(self):
        ascending = list(self.starts) == sorted(set(self.starts)) and self.starts[:1] == (0,) and self.starts[-1] < 1
        if not ascending or len(self.starts) != len(self.weights):
            raise ValueError(f"starts={self.starts}: one for each of the {len(self.weights)} weights, ascending from 0, below 1")
        if len({len(row) for row in self.weights}) != 1 or any(min(row) < 0 or sum(row) <= 0 for row in self.weights):
            raise ValueError(f"weights={self.weights}: every stage weighs the same domains, none negative, not all zero")

    def __call__(self, step: jax.Array, steps: int) -> jax.Array:
        """p_k at `step` of `steps`; jit-able and vmap-able."""
        weight_sk = jnp.asarray(self.weights, jnp.float32)
        weight_sk = weight_sk / jnp.sum(weight_sk, axis=1, keepdims=True)
        start_s, x = jnp.asarray(self.starts), step / steps
        if self.blend:
            return jnp.stack([jnp.interp(x, start_s, weight_sk[:, k]) for k in range(weight_sk.shape[1])])
        return weight_sk[jnp.searchsorted(start_s, x, side="right") - 1]

    def shares(self, steps, size_k, batch_size):
        p_tk = np.asarray(jax.vmap(lambda step: self(step, steps))(jnp.arange(steps)), np.float64)
        return p_tk / p_tk.sum(axis=1, keepdims=True)


def mixed_batch(seed: int, step: int, p_k: np.ndarray, size_k: tuple[int, ...], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(domain_b, index_b): rows drawn from the domains with p_k, uniformly within each; a pure function of (seed, step).

    Domains are drawn with systematic sampling: each gets ⌊p·B⌋ or ⌈p·B⌉ rows. Raises ValueError for a domain that is wanted but empty.
    """
    p_k = np.asarray(p_k, np.float64) / np.sum(p_k)
    if empty := [k for k in range(len(p_k)) if p_k[k] > 0 and not size_k[k]]:
        raise ValueError(f"domain {empty[0]} has weight {p_k[empty[0]]:.3g} but no records: give it some, or weight 0")
    random = np.random.default_rng((seed, step))
    domain_b = np.searchsorted(np.cumsum(p_k)[:-1], (np.arange(batch_size) + random.random()) / batch_size, side="right")
    index_b = random.integers(0, np.maximum(np.asarray(size_k), 1)[domain_b])
    mixed = random.permutation(batch_size)
    return domain_b[mixed], index_b[mixed]
