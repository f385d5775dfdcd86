"""Plans, frontiers, hold-outs and designs against closed forms and against doing it by hand."""

import numpy as np
import pytest

from effllm import scaling
from effllm.scaling import Chinchilla, Machine, NonEmbedding, Runs, Shape, Total, convert, laws, optimal

LAW = Chinchilla()


def closed_form(law, budget):
    g = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
    return g * (budget / 6) ** (law.beta / (law.alpha + law.beta))


def grid_runs(budgets, ratios=np.geomspace(0.1, 10, 9)):
    """Sizes around the optimum of each budget, losses of the law without noise."""
    params = np.concatenate([closed_form(LAW, c) * ratios for c in budgets])
    compute = np.repeat(budgets, len(ratios))
    tokens = compute / (6 * params)
    return Runs({"params": params, "tokens": tokens, "flops": compute, "loss": LAW(params, tokens)})


def test_optimum_is_the_closed_form():
    for budget in (1e18, 5.76e23):
        plan = optimal(LAW, budget)
        assert plan.params[0] == pytest.approx(closed_form(LAW, budget), rel=1e-6)
        assert 6 * plan.params[0] * plan.tokens[0] == pytest.approx(budget, rel=1e-12) and plan.epochs[0] == 1


def test_draws_are_planned_one_by_one():
    law = Chinchilla(E=np.array([[1.7], [1.8]]), alpha=np.array([[0.33], [0.37]]))
    plan = optimal(law, 1e22)
    each = [optimal(Chinchilla(E=e, alpha=a), 1e22).params[0] for e, a in ((1.7, 0.33), (1.8, 0.37))]
    assert plan.params == pytest.approx(each, rel=1e-6)


def test_limited_unique_tokens_are_repeated_and_then_not_worth_it():
    law = laws.DataConstrained()
    free = optimal(law, 1e22)
    plans = {u: optimal(law, 1e22, unique_tokens=u) for u in (1e9, 5e10, 1e13)}
    assert plans[1e13].params[0] == pytest.approx(free.params[0], rel=1e-6)
    assert plans[5e10].epochs[0] > 2 and plans[5e10].loss[0] > free.loss[0] and plans[1e9].loss[0] > plans[5e10].loss[0]
    grid = np.geomspace(1e8, 1e12, 4001)
    assert plans[5e10].loss[0] <= law(grid, 1e22 / (6 * grid), 5e10).min() + 1e-9
    with pytest.raises(ValueError, match="does not know repeated tokens"):
        optimal(LAW, 1e22, unique_tokens=1e9)


def test_inference_makes_models_smaller_and_the_two_questions_are_dual():
    plain, served = optimal(LAW, 1e23), optimal(LAW, 1e23, inference_tokens=1e12)
    assert served.params[0] < plain.params[0] and served.tokens_per_param[0] > plain.tokens_per_param[0]
    spent = 6 * served.params * served.tokens + 2 * served.params * 1e12
    assert spent[0] == pytest.approx(1e23, rel=1e-9)
    cheapest = scaling.cheapest(LAW, float(served.loss[0]), inference_tokens=1e12)
    assert cheapest.params[0] == pytest.approx(served.params[0], rel=1e-5) and cheapest.tokens[0] == pytest.approx(served.tokens[0], rel=1e-5)
    with pytest.raises(ValueError, match="no model reaches a loss of 1.5"):
        scaling.cheapest(LAW, 1.5)


def test_bits_are_chosen_along():
    law = laws.Precision(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.36, gamma=2.5)
    plan = optimal(law, 1e22, choices={"bits": (4, 8, 16)})
    assert plan.more["bits"][0] == 16 and plan.loss[0] < optimal(law, 1e22, choices={"bits": (4,)}).loss[0]
    with pytest.raises(ValueError, match="also takes bits"):
        optimal(law, 1e22)


def test_experts_for_a_memory():
    law = laws.Routed(-0.082, -0.108, 0.009, 1.104, 1.847, 314.478)
    options = np.array([1, 2, 8, 64, 512])
    plan = scaling.with_experts(law, 1e9, options, active=1e8)
    assert plan.params[0] <= 1e8 and plan.total[0] <= 1e9 * (1 + 1e-12)
    by_hand = {e: law(min(1e8, 1e9 / (1 + (e - 1) / 3)), e) for e in options}
    assert plan.experts[0] == min(by_hand, key=by_hand.get) and plan.loss[0] == pytest.approx(min(by_hand.values()))
    assert law(plan.effective_params[0], 1.0) == pytest.approx(plan.loss[0])
    with pytest.raises(ValueError, match="cannot be split between params and tokens"):
        optimal(law, 1e20, choices={"experts": options})
    fine = laws.FineGrained()
    assert optimal(fine, 1e21, choices={"granularity": (1, 4, 16)}).more["granularity"][0] == 16


def test_over_training_keeps_the_budget():
    plan = scaling.over_trained(LAW, 1e22, 320)
    assert plan.tokens_per_param[0] == pytest.approx(320, rel=1e-9) and plan.flops[0] == pytest.approx(1e22, rel=1e-9)
    assert plan.loss[0] > optimal(LAW, 1e22).loss[0]


def test_time_money_and_carbon():
    machine = Machine(devices=8, peak=1e15, utilisation=0.5, price=2.0, watts=1000.0, grid=500.0)
    assert machine.seconds(4e15) == 1 and machine.money(4e15 * 3600) == 16 and machine.carbon(4e15 * 3600) == pytest.approx(8 * 500)
    assert machine.budget(seconds=3600, money=4.0) == pytest.approx(4e15 * 900)
    with pytest.raises(ValueError, match="needs the machine's price"):
        Machine(devices=1, peak=1e15).budget(money=1.0)
    with pytest.raises(ValueError, match="no peak known for 'abacus'"):
        Machine.of("abacus", 1)


def test_far_extrapolation_is_said():
    assert scaling.far(1e22, 2e20) is None and "500 times the largest run" in scaling.far(1e23, 2e20)


@pytest.mark.parametrize("method", [scaling.parabola, scaling.akima])
def test_isoflop_recovers_the_exponent(method):
    runs = grid_runs(np.geomspace(1e18, 1e21, 5))
    found = scaling.isoflop(runs, method)
    assert found.params.exponent == pytest.approx(LAW.beta / (LAW.alpha + LAW.beta), abs=0.005)
    assert found.params_c == pytest.approx([closed_form(LAW, c) for c in found.compute_c], rel=0.25 if method is scaling.parabola else 0.03)
    assert scaling.bias(LAW, runs, method) == pytest.approx(found.params.exponent - LAW.beta / (LAW.alpha + LAW.beta), abs=1e-4)


def test_isoflop_knows_its_bias_on_sizes_that_drift():
    """Sizes that slide from one side of the optimum to the other with compute: a parabola's exponent is off by what `bias` says, and both say much."""
    law = Chinchilla(1.8, 2e4, 400.0, 0.5, 0.25)
    budgets = np.geomspace(1e18, 1e21, 5)
    params = np.concatenate([closed_form(law, c) * np.geomspace(0.1, 10, 9) * shift for c, shift in zip(budgets, np.geomspace(0.15, 6, 5), strict=True)])
    compute = np.repeat(budgets, 9)
    tokens, true = compute / (6 * params), law.beta / (law.alpha + law.beta)
    runs = Runs({"params": params, "tokens": tokens, "flops": compute, "loss": law(params, tokens)})
    off = scaling.isoflop(runs, scaling.parabola).params.exponent - true
    assert abs(off) > 0.02 and scaling.bias(law, runs, scaling.parabola) == pytest.approx(off, abs=1e-5)
    assert abs(scaling.isoflop(runs, scaling.akima).params.exponent - true) < abs(off) / 20


def test_isoflop_leaves_out_what_has_no_minimum():
    runs = grid_runs(np.geomspace(1e18, 1e21, 4))
    largest = runs.flops > 9e20
    one_sided = runs.where(largest & (runs["params"] > closed_form(LAW, 1e21) * 1.2))
    others = runs.where(~largest)
    both = Runs({n: np.concatenate([others[n], one_sided[n]]) for n in runs.columns})
    found = scaling.isoflop(both)
    assert len(found.compute_c) == 3 and "not between" in found.left_out[0][1] and any("left out" in w for w in found.warnings)
    with pytest.raises(ValueError, match="only 0 of 1 FLOP budgets .*not between"):
        scaling.isoflop(one_sided)
    noisy = scaling.isoflop(runs, noise=0.002, draws=40)
    assert (noisy.std_c > 0).all() and noisy.std_c.max() < 0.5


def test_near_duplicates_do_not_throw_akima():
    log_n = np.log([1e8, 2e8, 2.0001e8, 4e8, 8e8])
    assert scaling.akima(log_n, np.array([1.0, 0.9, 0.93, 0.91, 1.05]))[1] > 0.85


def test_the_envelope_of_curves():
    sizes = np.geomspace(1e7, 1e10, 13)
    tokens = np.geomspace(3e8, 3e11, 60)
    n, d = (a.ravel() for a in np.meshgrid(sizes, tokens, indexing="ij"))
    runs = Runs({"params": n, "tokens": d, "loss": LAW(n, d)}, tuple(f"{x:.3g}" for x in n))
    inside = (runs.flops > 1e18) & (runs.flops < 1e21)
    found = scaling.envelope(runs.where(inside), points=400)
    assert found.params.exponent == pytest.approx(LAW.beta / (LAW.alpha + LAW.beta), abs=0.04) and len(found.warnings) == 3
    with pytest.raises(ValueError, match="needs curves"):
        scaling.envelope(Runs(runs.columns))


def test_holding_out_the_largest():
    runs = grid_runs(np.geomspace(1e18, 1e21, 5))
    found = scaling.holdout(Chinchilla, runs, 9, draws=20)
    assert found.runs.flops.min() > found.fit.runs.flops.max() and found.mean_error < 1e-6 and found.reach == pytest.approx(10**0.75)
    worse = runs.with_column("loss", np.where(runs.flops > 5e20, 1.1, 1.0) * runs["loss"])
    assert scaling.holdout(Chinchilla, worse, 9).bias == pytest.approx(1 / 1.1 - 1, abs=1e-6)
    with pytest.raises(ValueError, match="holding out 45 of 45"):
        scaling.holdout(Chinchilla, runs, 45)


def test_a_design_beats_random_ones_and_keeps_its_budget():
    rng = np.random.default_rng(0)
    runs = grid_runs(np.geomspace(1e18, 1e19, 3))
    fitted = scaling.fit(Chinchilla, runs.with_column("loss", runs["loss"] * np.exp(0.003 * rng.standard_normal(runs.size))))
    options = scaling.candidates(2e19, np.geomspace(3e7, 3e9, 7), np.array([2.0, 10, 50, 250]))
    chosen = scaling.design(fitted, 2e19, options, count=5)
    assert chosen.runs.flops.sum() <= 2e19 and chosen.runs.size <= 5 and all(0 < s <= 1 for s in chosen.shrink.values())
    allowed = options.where(fitted.predict(options) <= fitted.runs["loss"].max())
    gains = []
    for _ in range(30):
        picked = allowed.where(rng.permutation(allowed.size)[:5])
        if picked.flops.sum() <= 2e19:
            gains.append(scaling.design(fitted, 2e19, picked, count=5, repeats=1).gain)
    assert gains and chosen.gain >= max(gains)
    aimed = scaling.design(fitted, 2e19, options, 5, target=Runs({"params": np.array([1e11]), "tokens": np.array([2e12])}))
    assert 0 < aimed.prediction < 1
    with pytest.raises(ValueError, match="no candidate run costs less"):
        scaling.candidates(1e10, np.array([1e9]), np.array([20.0]))


def test_conventions_convert():
    n = np.array([1e5, 1e8, 1e11])
    assert convert(n, NonEmbedding(), Total()) == pytest.approx(n + 47491 * np.cbrt(n))
    assert convert(convert(n, NonEmbedding(), Total()), Total(), NonEmbedding()) == pytest.approx(n, rel=1e-12)
    assert scaling.SixNonEmbedding().per_token(1e8) < scaling.SixN().per_token(1e8) < scaling.WithAttention().per_token(1e8)


def test_a_shape_counts_as_the_model_does():
    import math

    import jax
    import jax.numpy as jnp

    from effllm.nn import MLP, Attention, Block, DecoderLM

    shape = Shape(width=64, depth=3, heads=4, head_dim=16, ffn=128, vocab=256, context=32)
    model = DecoderLM(vocab_size=256, width=64, depth=3, blocks=(Block(Attention(heads=4), MLP(hidden=128)),), tied=True)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32)))["params"]
    matrices = sum(math.prod(a.shape) for a in jax.tree.leaves(params) if a.ndim - (a.shape[0] == 3) >= 2)
    assert shape.total == pytest.approx(matrices, rel=0.01)
    assert shape.six_non_embedding() < shape.six_n() < shape.with_attention() < shape.hoffmann()


def test_two_architectures():
    rng = np.random.default_rng(0)
    base = grid_runs(np.geomspace(1e18, 1e20, 4))

    def noisy(law):
        return base.with_column("loss", law(base["params"], base["tokens"]) * np.exp(0.002 * rng.standard_normal(base.size)))

    same = scaling.compare(Chinchilla, {"a": noisy(LAW), "b": noisy(LAW)}, draws=60)
    other = scaling.compare(Chinchilla, {"a": noisy(LAW), "b": noisy(Chinchilla(alpha=0.33))}, draws=60)
    assert same.p_value > 0.01 and other.p_value < 1e-6
    assert other.better("a", "b", 1e22) == 1.0 and 0.02 < same.better("a", "b", 1e22) < 0.98


def test_emergence_by_metric_and_by_jump():
    x, rng = np.geomspace(1e18, 1e24, 14), np.random.default_rng(0)
    loss = 0.05 + 2.0 * (x / 1e18) ** -0.2
    smooth = rng.binomial(500, np.exp(-6 * loss)) / 500
    assert "metric" in scaling.emergence(x, loss, smooth, 500).verdict
    assert "jump more" in scaling.emergence(x, loss, rng.binomial(500, np.where(x > 1e22, 0.8, 0.01)) / 500, 500).verdict
    assert scaling.emergence(x, loss, smooth, 500).blind_n[0]


def test_trends():
    x, rng = np.geomspace(1e18, 1e24, 10), np.random.default_rng(0)
    position = np.linspace(-1, 1, 10)
    verdicts = [scaling.trend(x, y).verdict for y in (position, -position, position**2, -(position**2), rng.standard_normal(10))]
    assert verdicts == ["better with scale", "worse with scale (inverse scaling)", "worse, then better (U-shaped)", "better, then worse", "no trend"]
