"""Optimizers as values that build an optax transformation."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import optax

from effllm.train.schedule import Cosine, Schedule, known

ENDLESS = 2**31 - 1


def decay_mask(params: Any, names: tuple[str, ...]) -> Any:
    """True for parameters one of whose path's names is in `names`: weights of products decay, norms and biases do not."""

    def decays(path, _):
        return any(getattr(key, "key", None) in names for key in path)

    return jax.tree_util.tree_map_with_path(decays, params)


def skip_nonfinite(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """A transformation that leaves everything as it was where a gradient is not finite, and counts (see `skipped`)."""
    return optax.apply_if_finite(tx, max_consecutive_errors=ENDLESS)


def skipped(opt_state: Any) -> dict[str, jax.Array]:
    """{"skipped": steps without an update so far, "skipped_in_row": those just now} of a `skip_nonfinite` state."""
    return {"skipped": opt_state.total_notfinite, "skipped_in_row": opt_state.notfinite_count}


class Optimizer:
    """Base of all optimizers: `tx(steps)` for a run of that many steps, `rate(step, steps)` the learning rate."""

    def tx(self, steps: int) -> optax.GradientTransformation:
        raise TypeError(f"{type(self).__name__} does not say how it moves: it needs a tx")

    def rate(self, step: jax.Array, steps: int) -> jax.Array:
        raise TypeError(f"{type(self).__name__} does not say its learning rate: it needs a rate")


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101) after clipping the global norm to `clip`.

    Parameters under the names in `decay` decay by learning rate × weight_decay; norms, scales and biases do not. Raises ValueError for a rate, an
    eps or a clip that is not positive (the rate may be 0), for b1 or b2 outside [0, 1), and for a negative weight_decay; numbers that jit or
    vmap traces are taken as they are.
    """

    learning_rate: float = 1e-3
    schedule: Schedule = Cosine()
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    decay: tuple[str, ...] = ("kernel", "embedding")
    clip: float | None = 1.0

    def __post_init__(self):
        for name in ("learning_rate", "weight_decay"):
            if known(value := getattr(self, name)) and not 0 <= value < math.inf:
                raise ValueError(f"optimizer.{name}={value} must be finite and not negative")
        for name in ("b1", "b2"):
            if known(value := getattr(self, name)) and not 0 <= value < 1:
                raise ValueError(f"optimizer.{name}={value} must lie in [0, 1): it is a share of the average that stays")
        if known(self.eps) and not 0 < self.eps < math.inf:
            raise ValueError(f"optimizer.eps={self.eps} must be positive: parameters without a gradient are divided by it")
        if self.clip is not None and known(self.clip) and not self.clip > 0:
            raise ValueError(f"optimizer.clip={self.clip} must be positive; None clips nothing")

    def rate(self, step, steps):
        return self.learning_rate * self.schedule(step, steps)

    def tx(self, steps):
        clip = optax.identity() if self.clip is None else optax.clip_by_global_norm(self.clip)
        adamw = optax.adamw(
            lambda step: self.rate(step, steps), self.b1, self.b2, self.eps,
            weight_decay=self.weight_decay, mask=lambda params: decay_mask(params, self.decay),
        )  # fmt: skip
        return optax.chain(clip, adamw)
