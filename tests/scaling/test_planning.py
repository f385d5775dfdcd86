"""What may be asked of a plan, and what a published table answers."""

import numpy as np
import pytest

from effllm import scaling
from effllm.scaling import Chinchilla, FineGrainedExperts, SixN, laws, optimal

LAW = Chinchilla()


@pytest.mark.parametrize("budget,active,tokens,granularity", [
    (2.95e18, 1e8, 4.37e9, 8), (1.93e20, 1e9, 28.94e9, 16), (6.46e21, 7e9, 137.6e9, 32), (5.69e24, 3e11, 2.96e12, 64),
])  # fmt: skip
def test_fine_grained_experts_are_the_papers_table(budget, active, tokens, granularity):
    """Krajewski et al.'s compute-optimal models of 64 × active parameters: N counts them all, and routing limits the granularity."""
    plan = optimal(laws.FineGrained(), budget, choices={"granularity": 2.0 ** np.arange(8)})
    assert plan.params[0] * 12 / 516 == pytest.approx(active, rel=0.03) and plan.tokens[0] == pytest.approx(tokens, rel=0.03)
    assert plan.more["granularity"][0] == granularity and plan.flops[0] == pytest.approx(budget, rel=1e-9)


def test_a_cost_is_the_laws_own_unless_given():
    assert laws.FineGrained.cost == FineGrainedExperts() and Chinchilla.cost == SixN()
    cheap, dear = (optimal(laws.FineGrained(), 1e20, cost=c, choices={"granularity": (8,)}).flops[0] for c in (None, SixN()))
    assert cheap == dear == pytest.approx(1e20)
    assert FineGrainedExperts().per_token(6.4e9) < SixN().per_token(6.4e9) / 30


@pytest.mark.parametrize("plan,words", [
    (lambda: optimal(laws.LearningRate(), 1e21), "LearningRate is a law of learning_rate, not of loss"),
    (lambda: optimal(LAW, 1e21, choices={"bits": (4, 8)}), "Chinchilla does not take bits"),
    (lambda: optimal(laws.DataConstrained(), 1e21, unique_tokens=-1), "unique_tokens -1 must be positive"),
    (lambda: optimal(LAW, 1e21, inference_tokens=-1e14), "must be zero or more"),
    (lambda: optimal(LAW, 1e6), "a model smaller than any between 1e3 and 1e16"),
    (lambda: scaling.over_trained(LAW, 1e6, 20), "no model between 1e3 and 1e16 parameters 20 tokens a parameter"),
    (lambda: scaling.over_trained(LAW, 1e20, -5), "tokens_per_param -5 must be positive"),
    (lambda: scaling.cheapest(LAW, 2.0, inference_tokens=np.nan), "inference_tokens nan"),
    (lambda: scaling.with_experts(laws.Routed(-0.08, -0.11, 0.009, 1.1, 1.8, 314.0), -1, [1, 8]), "total -1 must be positive"),
])  # fmt: skip
def test_a_plan_of_nothing_is_refused(plan, words):
    with pytest.raises(ValueError, match=words):
        plan()


def test_over_training_leaves_inference_its_share():
    plan = scaling.over_trained(LAW, 1e21, 100, inference_tokens=1e13)
    assert 6 * plan.params[0] * plan.tokens[0] + 2 * plan.params[0] * 1e13 == pytest.approx(1e21, rel=1e-9)
    assert plan.tokens_per_param[0] == pytest.approx(100, rel=1e-9)


def test_draws_that_do_not_reach_a_loss_open_the_interval():
    plan = scaling.cheapest(Chinchilla(E=np.array([[1.7], [1.8], [2.1]])), 2.0)
    assert all(np.isnan(values[2]) for name, values in plan.columns().items() if name != "epochs") and np.isfinite(plan.params[:2]).all()
    low, high = scaling.bootstrap.__globals__["percentiles"](plan.params, 0.95)
    assert low == -np.inf and high == np.inf
