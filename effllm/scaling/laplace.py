"""Laplace: the normal approximation at the minimum, with the sandwich covariance of M-estimators (Huber 1967)."""

import numpy as np
from scipy.stats import norm

from effllm.scaling.bootstrap import WIDE, Interval, spare
from effllm.scaling.fit import Fit, jacobian


def covariance(fit: Fit) -> np.ndarray:
    """Cov θ (p_free, p_free) = H⁻¹ (Σ w² ψ² J Jᵀ) H⁻¹ with H = Σ w ψ̄′ J Jᵀ, in the fitted coordinates (logarithms of positive parameters).

    ψ̄′ is the mean slope E ψ′(r), estimated over a window of the residuals' own spread: with δ far below the residuals, counting the few that lie
    within δ would be noise. Runs of no weight take no part. Raises ValueError where no run is left over.
    """
    spare(fit)
    used = fit.weights_n > 0
    runs, weights = fit.runs.where(used), fit.weights_n[used]
    r = np.asarray(fit.loss.residual(fit.predict(runs), runs[fit.form.target]))
    psi = np.asarray(fit.loss.psi(r), float)
    j = jacobian(fit.form, runs, fit.loss, fit.theta_p)[:, list(fit.free)]
    width = 1.06 * min(np.std(r), (np.quantile(r, 0.75) - np.quantile(r, 0.25)) / 1.349) * len(r) ** -0.2 + 1e-300
    slope = np.mean(np.asarray(fit.loss.psi(r + width), float) - np.asarray(fit.loss.psi(r - width), float)) / (2 * width)
    h = slope * (j * weights[:, None]).T @ j
    inverse = np.linalg.pinv(h, rcond=1e-15, hermitian=True)
    n, p = len(r), len(fit.free)
    pull = j * (weights * psi)[:, None]
    return n / (n - p) * inverse @ (pull.T @ pull) @ inverse


def laplace(fit: Fit, level: float = 0.95) -> dict[str, Interval]:
    """Intervals θ̂ ± z·σ of each free parameter, mapped back through the exponential where it is fitted as a logarithm."""
    half_p = norm.ppf((1 + level) / 2) * np.sqrt(np.maximum(np.diag(covariance(fit)), 0))
    found = {}
    for half, i in zip(half_p, fit.free, strict=True):
        name, middle = fit.form.names[i], fit.theta_p[i]
        ends = np.array([middle - half, middle + half])
        if name in fit.form.positive:
            ends = np.exp(ends)
        low, high = map(float, ends)
        found[name] = Interval(low, high, level, not (low > 0 and high > WIDE * low))
    return found
