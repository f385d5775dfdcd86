"""What to train: the best size and data for a budget, under a law's point estimate or under each draw of a bootstrap.

Every question is one search over ln N in which the rest of the budget goes into tokens; so it works with any law, also a user's function.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from effllm.scaling.conventions import Cost, SixN
from effllm.scaling.numeric import zoom

SMALLEST, LARGEST = math.log(1e3), math.log(1e16)
FAR, EDGE = 100.0, 1e-6


@dataclass(frozen=True)
class Plan:
    """What to train. Arrays of shape (B,), one entry a draw of the law, (1,) for a point estimate.

    params N, tokens D seen in training, loss, flops of training, epochs = D/unique tokens (1 where all is new), more: further columns of the law
    (granularity, bits) that were chosen along.
    """

    params: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    flops: np.ndarray
    epochs: np.ndarray
    more: dict[str, np.ndarray]

    @property
    def tokens_per_param(self) -> np.ndarray:
        return self.tokens / self.params

    def columns(self) -> dict[str, np.ndarray]:
        """All quantities by name."""
        return {
            "params": self.params, "tokens": self.tokens, "loss": self.loss, "flops": self.flops, "tokens_per_param": self.tokens_per_param,
            "epochs": self.epochs, **self.more,
        }  # fmt: skip


def evaluate(law: Any, params: Any, tokens: Any, unique_tokens: float | None, more: dict[str, Any]) -> np.ndarray:
    """The law's loss; raises ValueError for a column that it takes and nobody gave, for one given that it does not take, for a law of models whose tokens are
    fixed and for one of something else than loss. Without a limit every token is new."""
    if getattr(law, "target", "loss") != "loss":
        raise ValueError(f"{type(law).__name__} is a law of {law.target}, not of loss: it cannot say which model is best")
    if not {"params", "tokens"} <= set(law.inputs):
        raise ValueError(f"{type(law).__name__} is a law of {', '.join(law.inputs)}: a budget cannot be split between params and tokens by it")
    unused = [n for n in more if n not in law.inputs]
    if unused:
        raise ValueError(f"{type(law).__name__} does not take {', '.join(unused)}: there is nothing to choose by it")
    columns = {"params": params, "tokens": tokens, "unique_tokens": tokens if unique_tokens is None else unique_tokens, **more}
    lacking = [n for n in law.inputs if n not in columns]
    if lacking:
        raise ValueError(f"{type(law).__name__} also takes {', '.join(lacking)}: say which values are allowed")
    return np.asarray(law(*(columns[n] for n in law.inputs)))


def optimal(
    law: Any, budget: float, *, cost: Cost | None = None, unique_tokens: float | None = None, inference_tokens: float = 0.0, choices: dict[str, np.ndarray] | None = None,
) -> Plan:  # fmt: skip
    """The N and D of least loss whose training, and inference on `inference_tokens`, cost `budget` FLOPs together.

    law: parameters of shape () or (B, 1). cost: the law's own by default, which is 6·N·D for most. unique_tokens: how many different tokens there are;
    the law must take them (DataConstrained), else ValueError: repeated tokens are not new ones. choices: {column: values} of which the best combination
    is taken, such as {"granularity": (1, 4, 16)} or {"bits": (4, 8, 16)}. Raises ValueError for a budget or tokens that are none, and where the best
    size is none between 1e3 and 1e16 parameters.
    """
    check_budget(budget)
    check_tokens(unique_tokens, inference_tokens)
    cost = cost_of(law, cost)
    if unique_tokens is not None and "unique_tokens" not in law.inputs:
        raise ValueError(f"{type(law).__name__} does not know repeated tokens: fit a law that takes unique_tokens (DataConstrained) to plan with limited data")
    best = None
    for combination in combinations(choices or {}):
        plan = search(law, budget, cost.chosen(combination), unique_tokens, inference_tokens, combination)
        best = plan if best is None else better(best, plan)
    return best


def check_budget(budget: float) -> None:
    """Raise ValueError for a budget that buys nothing."""
    if not (budget > 0 and math.isfinite(budget)):
        raise ValueError(f"budget {budget} must be a positive number of FLOPs")


def cost_of(law: Any, cost: Cost | None) -> Cost:
    """The given cost, else the law's own, 6·N·D for a function."""
    return cost or getattr(law, "cost", SixN())


def check_tokens(unique_tokens: float | None, inference_tokens: float) -> None:
    """Raise ValueError for numbers of tokens that cannot be."""
    if unique_tokens is not None and not (unique_tokens > 0 and math.isfinite(unique_tokens)):
        raise ValueError(f"unique_tokens {unique_tokens} must be positive")
    if not (inference_tokens >= 0 and math.isfinite(inference_tokens)):
        raise ValueError(f"inference_tokens {inference_tokens} must be zero or more")


def combinations(choices: dict[str, np.ndarray]) -> list[dict[str, float]]:
    """All choices as {column: value}."""
    found: list[dict[str, float]] = [{}]
    for name, values in choices.items():
        found = [{**f, name: float(v)} for f in found for v in np.atleast_1d(values)]
    return found


def spend(budget: float, params: np.ndarray, cost: Cost, inference_tokens: float) -> np.ndarray:
    """Training tokens that the budget leaves after inference; NaN where nothing is left."""
    left = budget - cost.inference(params) * inference_tokens
    return np.where(left > 0, left, np.nan) / cost.per_token(params)


def search(law: Any, budget: float, cost: Cost, unique_tokens: float | None, inference_tokens: float, more: dict[str, float]) -> Plan:
    """The best N at one choice of everything else."""

    def loss(log_n):
        params = np.exp(log_n)
        return evaluate(law, params, spend(budget, params, cost, inference_tokens), unique_tokens, more)

    draws = loss(np.full((1, 1), math.log(1e6))).shape[0]
    log_n = zoom(loss, np.full(draws, SMALLEST), np.full(draws, LARGEST), points=129)
    if ((log_n < SMALLEST + EDGE) | (log_n > LARGEST - EDGE)).all():
        side = "smaller" if log_n[0] < SMALLEST + EDGE else "larger"
        raise ValueError(f"under this law {budget:.2g} FLOPs are best spent on a model {side} than any between 1e3 and 1e16 parameters: it has no optimum there")
    return plan_at(law, np.exp(log_n), budget, cost, unique_tokens, inference_tokens, more)


def plan_at(law: Any, params: np.ndarray, budget: float, cost: Cost, unique_tokens: float | None, inference_tokens: float, more: dict[str, float]) -> Plan:
    """The plan that trains N = params (B,) with what the budget leaves for tokens."""
    tokens = spend(budget, params, cost, inference_tokens)
    loss = evaluate(law, params[:, None], tokens[:, None], unique_tokens, more)[:, 0]
    epochs = np.maximum(1.0, tokens / unique_tokens) if unique_tokens else np.ones_like(tokens)
    return Plan(params, tokens, loss, cost.per_token(params) * tokens, epochs, {k: np.full(params.shape, v) for k, v in more.items()})


def better(one: Plan, other: Plan) -> Plan:
    """Draw by draw, the plan of lower loss."""
    take = other.loss < one.loss

    def choose(a, b):
        return np.where(take, b, a)

    more = {k: choose(one.more[k], other.more[k]) for k in one.more}
    return Plan(*(choose(getattr(one, n), getattr(other, n)) for n in ("params", "tokens", "loss", "flops", "epochs")), more)


def cheapest(law: Any, loss: float, *, inference_tokens: float = 0.0, cost: Cost | None = None, unique_tokens: float | None = None) -> Plan:
    """The N and D that reach `loss` at least FLOPs of training and inference together: min 6ND + 2N·D_inf s.t. L(N, D) = ℓ (Sardana et al. 2023,
    arXiv 2401.00448). For each N, the tokens are found by bisection. A draw that does not reach the loss has NaN in every quantity. Raises ValueError for a
    loss that no model of the law reaches."""
    check_tokens(unique_tokens, inference_tokens)
    cost = cost_of(law, cost)

    def tokens(log_n):
        params = np.exp(log_n)
        low, high = np.full_like(log_n, math.log(1e3)), np.full_like(log_n, math.log(1e20))
        reached = evaluate(law, params, np.exp(high), unique_tokens, {}) <= loss
        low, high = (np.broadcast_to(a, reached.shape) for a in (low, high))
        for _ in range(60):
            middle = (low + high) / 2
            enough = evaluate(law, params, np.exp(middle), unique_tokens, {}) <= loss
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return np.where(reached, np.exp(high), np.nan)

    def total(log_n):
        params = np.exp(log_n)
        return np.log(cost.per_token(params) * tokens(log_n) + cost.inference(params) * inference_tokens)

    draws = total(np.full((1, 1), math.log(1e12))).shape[0]
    log_n = zoom(total, np.full(draws, SMALLEST), np.full(draws, LARGEST), points=129)
    seen = tokens(log_n[:, None])[:, 0]
    if not np.isfinite(seen).any():
        raise ValueError(f"no model reaches a loss of {loss:g} under this law: its irreducible loss lies above")
    params = np.where(np.isfinite(seen), np.exp(log_n), np.nan)
    reached = evaluate(law, params[:, None], seen[:, None], unique_tokens, {})[:, 0]
    epochs = np.maximum(1.0, seen / unique_tokens) if unique_tokens else np.ones_like(seen)
    return Plan(params, seen, reached, cost.per_token(params) * seen, epochs, {})


def over_trained(
    law: Any, budget: float, tokens_per_param: float, cost: Cost | None = None, unique_tokens: float | None = None, inference_tokens: float = 0.0,
) -> Plan:  # fmt: skip
    """The plan at a given D/N: a smaller model trained for longer than is compute-optimal (Gadre et al. 2024, arXiv 2403.08540). Training, and inference on
    `inference_tokens`, cost `budget` together. Raises ValueError for a ratio that is not positive, or that no model reaches at this budget."""
    check_budget(budget)
    check_tokens(unique_tokens, inference_tokens)
    cost = cost_of(law, cost)
    if not (tokens_per_param > 0 and math.isfinite(tokens_per_param)):
        raise ValueError(f"tokens_per_param {tokens_per_param} must be positive")

    def off(log_n):
        params = np.exp(log_n)
        return np.abs(np.log(spend(budget, params, cost, inference_tokens)) - log_n - math.log(tokens_per_param))

    log_n = zoom(off, np.array([SMALLEST]), np.array([LARGEST]), points=129)
    if not off(log_n)[0] < EDGE:
        raise ValueError(f"{budget:.2g} FLOPs give no model between 1e3 and 1e16 parameters {tokens_per_param:g} tokens a parameter")
    draws = evaluate(law, np.exp(log_n)[:, None], spend(budget, np.exp(log_n), cost, inference_tokens)[:, None], unique_tokens, {}).shape[0]
    return plan_at(law, np.broadcast_to(np.exp(log_n), (draws,)), budget, cost, unique_tokens, inference_tokens, {})


def far(budget: float, largest: float) -> str | None:
    """A warning in words for a budget beyond a hundred times the largest run, else None."""
    if budget <= FAR * largest:
        return None
    return (f"the budget of {budget:.2g} FLOPs is {budget / largest:.0f} times the largest run ({largest:.2g}): the interval below covers noise in the runs, "
            "not whether the law still holds there")  # fmt: skip
