"""Data mixing laws: the loss of a mixture without training on it.

Letters: r run, i domain that is evaluated, k domain of the mixture.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True, eq=False)
class MixingLaw:
    """L_i(p) = c_i + exp(b_i + Σ_k t_ik p_k) (Ye et al. 2024, arXiv 2403.16952), fitted to runs with different mixtures.

    c_i, b_i: (I,); t_ik: (I, K). Adding a constant to row t_i and taking it from b_i changes nothing, as Σ_k p_k = 1. `residual_i`: root mean square
    error of the fit, in the losses' units: compare it with their spread over seeds before trusting a mixture.
    """

    c_i: np.ndarray
    b_i: np.ndarray
    t_ik: np.ndarray
    residual_i: np.ndarray

    @classmethod
    def fit(cls, mixture_rk: np.ndarray, loss_ri: np.ndarray, *, steps: int = 3000, rate: float = 0.05) -> "MixingLaw":
        """Least squares by Adam from five asymptotes c = share of the smallest loss; the best is kept.

        Raises ValueError unless mixtures are distributions and there are more runs than the K + 1 free parameters of a domain.
        """
        mixture_rk, loss_ri = np.asarray(mixture_rk, np.float64), np.asarray(loss_ri, np.float64)
        if mixture_rk.ndim != 2 or (mixture_rk < 0).any() or not np.allclose(mixture_rk.sum(1), 1, atol=1e-4):
            raise ValueError("every mixture is a row of shares that are not negative and sum to 1")
        if loss_ri.shape[0] != len(mixture_rk) or len(mixture_rk) < mixture_rk.shape[1] + 2:
            count, domains = mixture_rk.shape
            raise ValueError(f"{count} mixtures of {domains} domains and {len(loss_ri)} losses: a law needs the losses of {domains + 2} runs or more")
        given = jnp.asarray(mixture_rk, jnp.float32), jnp.asarray(loss_ri, jnp.float32)
        tried = [_fit(*given, share, steps, rate) for share in (0.1, 0.4, 0.7, 0.9, 0.98)]
        error_si = np.stack([np.asarray(error_i) for *_, error_i in tried])
        best_i = error_si.argmin(0)
        pick = [np.stack([np.asarray(t[part])[i] for i, t in enumerate(tried[s] for s in best_i)]) for part in range(4)]
        return cls(*pick)

    def __call__(self, mixture_k: np.ndarray) -> np.ndarray:
        """The predicted losses (…, I) of a mixture (…, K)."""
        return self.c_i + np.exp(self.b_i + np.asarray(mixture_k) @ self.t_ik.T)

    def best(self, weight_i: np.ndarray | None = None, *, steps: int = 2000, rate: float = 0.5) -> np.ndarray:
        """The mixture (K,) with the least Σ_i weight_i L_i(p) (by default all equal), by exponentiated gradient from the uniform one.

        Every L_i is convex in p, so that this is the global minimum.
        """
        weight_i = np.full(len(self.c_i), 1 / len(self.c_i)) if weight_i is None else np.asarray(weight_i, np.float64)
        p_k = np.full(self.t_ik.shape[1], 1 / self.t_ik.shape[1])
        for _ in range(steps):
            slope_k = (weight_i * np.exp(self.b_i + self.t_ik @ p_k)) @ self.t_ik
            p_k = p_k * np.exp(-rate * (slope_k - slope_k @ p_k) / max(np.abs(slope_k).max(), 1e-12))
            p_k /= p_k.sum()
        return p_k


def _fit(mixture_rk, loss_ri, share, steps, rate):
    """(c_i, b_i, t_ik, error_i) from one start."""
    import optax

    smallest_i = jnp.min(loss_ri, axis=0)
    above_ri = jnp.log(jnp.maximum(loss_ri - share * smallest_i, 1e-4))
    start_ik = jnp.linalg.lstsq(mixture_rk, above_ri)[0].T
    params = {"c": jnp.log(share * smallest_i), "t": start_ik}

    def errors(params):
        return jnp.mean((jnp.exp(params["c"]) + jnp.exp(mixture_rk @ params["t"].T) - loss_ri) ** 2, axis=0)

    tx = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def step(carry, _):
        params, state = carry
        slope = jax.grad(lambda p: jnp.sum(errors(p)))(params)
        updates, state = tx.update(slope, state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), None, steps)
    return jnp.exp(params["c"]), jnp.zeros_like(params["c"]), params["t"], jnp.sqrt(errors(params))
