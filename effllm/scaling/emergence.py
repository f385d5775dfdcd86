"""Emergence and inverse scaling: tests of whether a curve does what it seems to do.

Schaeffer et al. 2023 (arXiv 2304.15004): an all-or-nothing metric of a smoothly falling loss looks emergent. McKenzie et al. 2023
(arXiv 2306.09479): some tasks get worse with scale, some worse first and then better.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata

from effllm.scaling.fit import fit
from effllm.scaling.laws.power import PowerLaw
from effllm.scaling.runs import Runs


@dataclass(frozen=True)
class Emergence:
    """smooth_n: accuracy that a power law of the loss implies; jump_n: that of a logistic step in ln x fitted to the accuracies. evidence: AIC of the
    step minus AIC of the smooth account; above 2 the smooth one is preferred, below −2 the step. blind_n: where the smooth account expects less than
    one right answer beyond chance, so that a measured zero says nothing. verdict: in words."""

    smooth_n: np.ndarray
    jump_n: np.ndarray
    evidence: float
    blind_n: np.ndarray
    verdict: str


def emergence(x: np.ndarray, loss: np.ndarray, accuracy: np.ndarray, questions: int, chance: float = 0.0) -> Emergence:
    """Is a sudden accuracy the metric's doing?

    loss: of the same models, per token of the answers. Smooth: L(x) = E + A x^−α fitted to the losses, then accuracy = chance + (1 − chance) e^(−ℓ L),
    with one free number ℓ, the answer's effective length. Step: chance + (top − chance)/(1 + e^(−s (ln x − m))) with three. Both by binomial likelihood
    over `questions`. Raises ValueError for accuracies outside 0…1, arrays of different lengths, no questions, and a chance outside 0…1.
    """
    x, loss, accuracy = (np.asarray(a, float) for a in (x, loss, accuracy))
    if not x.shape == loss.shape == accuracy.shape or x.ndim != 1:
        raise ValueError(f"x, loss and accuracy must be equally long, got {x.shape}, {loss.shape}, {accuracy.shape}")
    if not ((accuracy >= 0) & (accuracy <= 1)).all():
        raise ValueError("accuracy must lie in 0…1 for every model: divide per cents by 100, leave out models without one")
    if questions < 1 or not 0 <= chance < 1:
        raise ValueError(f"emergence needs questions ≥ 1 and 0 ≤ chance < 1, got {questions} and {chance}")
    smooth_loss = fit(PowerLaw, Runs({"x": x, "loss": loss})).predict(Runs({"x": x}))
    right = accuracy * questions

    def deviance(p):
        p = np.clip(p, 1e-12, 1 - 1e-12)
        return -(right * np.log(p) + (questions - right) * np.log1p(-p)).sum()

    def smooth(length):
        return chance + (1 - chance) * np.exp(-np.exp(length) * smooth_loss)

    def jump(q):
        return chance + expit(q[0]) * (1 - chance) * expit(np.exp(q[2]) * (np.log(x) - q[1]))

    lengths = [minimize(lambda q: deviance(smooth(q[0])), [s], method="Nelder-Mead") for s in (-2.0, 0.0, 2.0, 4.0)]
    steps = [
        minimize(lambda q: deviance(jump(q)), [1.0, m, s], method="Nelder-Mead", options={"maxiter": 2000})
        for m in np.quantile(np.log(x), [0.3, 0.6, 0.9]) for s in (-1.0, 1.0, 3.0)
    ]  # fmt: skip
    length, step = min(lengths, key=lambda r: r.fun), min(steps, key=lambda r: r.fun)
    smooth_n, jump_n = smooth(length.x[0]), jump(step.x)
    evidence = float(2 * (step.fun - length.fun) + 2 * (3 - 1))
    blind_n = questions * (smooth_n - chance) < 1
    if evidence > 2:
        verdict = "a smooth loss explains the accuracies: the jump is the metric's"
    elif evidence < -2:
        verdict = "the accuracies jump more than a smooth loss explains"
    else:
        verdict = "these runs do not tell a jump from a smooth loss"
    return Emergence(smooth_n, jump_n, evidence, blind_n, verdict)


@dataclass(frozen=True)
class Trend:
    """correlation: Spearman's of score with scale, p_value of no trend. turn_p_value: of no turning point. verdict: "better with scale", "worse with scale
    (inverse scaling)", "worse, then better (U-shaped)", "better, then worse", or "no trend"."""

    correlation: float
    p_value: float
    turn_p_value: float
    verdict: str


def trend(x: np.ndarray, score: np.ndarray, level: float = 0.05, permutations: int = 2000, seed: int = 0) -> Trend:
    """Does a score (more is better) rise or fall with scale, or turn? Permutation tests on ranks; a turn is a quadratic in ln x whose vertex lies within.

    A score that never changes has no trend. Raises ValueError for fewer than five different scales and for a scale or score that is not usable."""
    x, score = np.asarray(x, float), np.asarray(score, float)
    if x.shape != score.shape or x.ndim != 1:
        raise ValueError(f"x and score must be equally long, got {x.shape} and {score.shape}")
    if not (np.isfinite(x) & (x > 0) & np.isfinite(score)).all():
        raise ValueError("a trend needs scales above zero and finite scores: leave out the others")
    if len(np.unique(x)) < 5:
        raise ValueError(f"{len(np.unique(x))} scales do not make a trend: give at least five")
    if np.ptp(score) == 0:
        return Trend(0.0, 1.0, 1.0, "no trend")
    x = np.log(x)
    generator = np.random.default_rng(seed)

    def spearman(s):
        return float(np.corrcoef(rankdata(x), rankdata(s))[0, 1])

    basis = np.linalg.qr(np.stack([np.ones_like(x), x - x.mean(), (x - x.mean()) ** 2], axis=1))[0]
    rest = score - basis[:, :2] @ (basis[:, :2].T @ score)
    bend = basis[:, 2] @ rest
    shuffled = [generator.permutation(len(x)) for _ in range(permutations)]
    correlation = spearman(score)
    p_value = (1 + sum(abs(spearman(score[s])) >= abs(correlation) - 1e-12 for s in shuffled)) / (permutations + 1)
    turn_p = (1 + sum(abs(basis[:, 2] @ rest[s]) >= abs(bend) - 1e-12 for s in shuffled)) / (permutations + 1)
    a, b, _ = np.polyfit(x, score, 2)
    share = (-b / (2 * a) - x.min()) / np.ptp(x) if a else np.inf
    if turn_p < level and 0.15 < share < 0.85:
        verdict = "worse, then better (U-shaped)" if a > 0 else "better, then worse"
    elif p_value < level:
        verdict = "better with scale" if correlation > 0 else "worse with scale (inverse scaling)"
    else:
        verdict = "no trend"
    return Trend(correlation, float(p_value), float(turn_p), verdict)
