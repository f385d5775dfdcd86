"""Laplace: the normal approximation at the minimum, with the sandwich covariance of M-estimators (Huber 1967)."""

import numpy as np
from scipy.stats import t as student

from effllm.scaling.bootstrap import Interval, bounded, spare
from effllm.scaling.fit import Fit, jacobian


def covariance(fit: Fit) -> np.ndarray:
    """Cov θ (p_free, p_free) = H⁻¹ (Σ w² ψ² J Jᵀ) H⁻¹ with H = Σ w ψ̄′ J Jᵀ, in the fitted coordinates (logarithms of positive parameters).

    ψ̄′ is the mean slope E ψ′(r), estimated over a window of the residuals' own spread: with δ far below the residuals, counting the few that lie
    within δ would be noise. The p_free smallest residuals are left out of it: a robust fit goes through about so many runs, whose residuals near zero
    say nothing of the noise and made the slope too steep, the interval too short. Runs of no weight take no part. Raises ValueError where no run is left over.
    """
    spare(fit)
    used = fit.weights_n > 0
    runs, weights = fit.runs.where(used), fit.weights_n[used]
    r = np.asarray(fit.loss.residual(fit.predict(runs), runs[fit.form.target]))
    psi = np.asarray(fit.loss.psi(r), float)
    j = jacobian(fit.form, runs, fit.loss, fit.theta_p)[:, list(fit.free)]
    n, p = len(r), len(fit.free)
    r = r[np.argsort(np.abs(r))[p:]]
    width = 1.06 * min(np.sqrt(np.mean(r**2)), 1.4826 * np.median(np.abs(r))) * len(r) ** -0.2 + 1e-300
    slope = np.mean(np.asarray(fit.loss.psi(r + width), float) - np.asarray(fit.loss.psi(r - width), float)) / (2 * width)
    h = slope * (j * weights[:, None]).T @ j
    inverse = np.linalg.pinv(h, rcond=1e-15, hermitian=True)
    pull = j * (weights * psi)[:, None]
    return n / (n - p) * inverse @ (pull.T @ pull) @ inverse


def laplace(fit: Fit, level: float = 0.95) -> dict[str, Interval]:
    """Intervals θ̂ ± t·σ of each free parameter, t Student's of the runs left over, mapped back through the exponential where it is fitted as a logarithm."""
    left = int((fit.weights_n > 0).sum()) - len(fit.free)
    half_p = student.ppf((1 + level) / 2, left) * np.sqrt(np.maximum(np.diag(covariance(fit)), 0))
    found = {}
    for half, i in zip(half_p, fit.free, strict=True):
        name, middle = fit.form.names[i], fit.theta_p[i]
        ends = np.array([middle - half, middle + half])
        if name in fit.form.positive:
            ends = np.exp(ends)
        low, high = map(float, ends)
        found[name] = Interval(low, high, level, bounded(low, high))
    return found
