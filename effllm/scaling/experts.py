"""How many experts: what a limit on all parameters, and one on those that a token meets, buy under a law of routed models."""

from dataclasses import dataclass

import numpy as np

from effllm.scaling.laws.clark import Routed


@dataclass(frozen=True)
class ExpertPlan:
    """Arrays (B,), one entry a draw of the law: params that a token meets, experts, total parameters, loss, and the dense model of the same loss."""

    params: np.ndarray
    experts: np.ndarray
    total: np.ndarray
    loss: np.ndarray
    effective_params: np.ndarray

    def columns(self) -> dict[str, np.ndarray]:
        """All quantities by name."""
        return {n: getattr(self, n) for n in ("params", "experts", "total", "loss", "effective_params")}


def with_experts(law: Routed, total: float, options: np.ndarray, *, active: float = np.inf, share: float = 1 / 3) -> ExpertPlan:
    """The size and number of experts of least loss with at most `total` parameters in memory and `active` met by a token.

    share: of a dense model's parameters that are copied for each expert, so that total = N (1 + share (E − 1)): a third where every second
    feed-forward layer is routed. The law is of a fixed number of tokens (Clark et al.: 130 B). Raises ValueError for options below one expert and for
    limits that hold nothing.
    """
    options = np.atleast_1d(np.asarray(options, float))
    if not options.min() >= 1:
        raise ValueError(f"experts {options.min():g} must be at least 1, which is a dense model")
    for name, limit in (("total", total), ("active", active)):
        if not limit > 0:
            raise ValueError(f"{name} {limit:g} must be positive: how many parameters there may be")
    params_e = np.minimum(active, total / (1 + share * (options - 1)))
    loss_be = np.atleast_2d(law(params_e, options))
    best = np.argmin(loss_be, axis=1)
    params, experts = params_e[best], options[best]
    effective_be = np.atleast_2d(law.effective_params(params_e, options))
    rows = np.arange(len(best))
    return ExpertPlan(params, experts, params * (1 + share * (experts - 1)), loss_be[rows, best], effective_be[rows, best])
