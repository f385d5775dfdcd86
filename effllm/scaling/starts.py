"""Where fits begin: variable projection, or a plain grid."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import nnls

from effllm.scaling.law import Form

MOST = 4096


def grid(form: Form, given: Mapping[str, Sequence[float]]) -> np.ndarray:
    """θ (S, p) of every combination of the given values, which must name all parameters. Raises ValueError for those it lacks."""
    lacking = [n for n in form.names if n not in given]
    if lacking:
        raise ValueError(f"starts lacks {', '.join(lacking)} of {form.label}: give values for each parameter")
    columns = np.array(list(itertools.product(*(given[n] for n in form.names))), float)
    return form.theta(dict(zip(form.names, columns.T, strict=True)))


def projected(form: Form, columns: Sequence[np.ndarray], target: np.ndarray, fixed: Mapping[str, float]) -> np.ndarray:
    """θ (S, p): the form's grid over the parameters in which it is not linear, the linear ones solved for at each point (Golub & Pereyra 1973).

    The law is evaluated at the unit vectors of its linear parameters, so nothing needs to be said twice; the relative squared error is least,
    positive parameters are held above zero. Thirteen decades of A then need no grid at all.
    """
    linear = [n for n in form.linear if n not in fixed]
    curved = {n: (fixed[n],) if n in fixed else v for n, v in form.starts} | {n: (fixed[n],) for n in form.linear if n in fixed}
    curved = {n: curved[n] for n in form.names if n in curved}
    lacking = [n for n in form.names if n not in curved and n not in linear]
    if lacking:
        raise ValueError(f"{form.label} has no starts for {', '.join(lacking)}: give starts={{name: values}}")
    if not linear:
        return grid(form, curved)

    def law(point, **chosen):
        values = {**point, **{n: chosen.get(n, 0.0) for n in linear}}
        with np.errstate(all="ignore"):
            return np.broadcast_to(form.predict([values[n] for n in form.names], list(columns)), target.shape)

    found, scale = [], np.where(target == 0, np.abs(target).max(), target)
    for combination in itertools.product(*curved.values()):
        point = dict(zip(curved, combination, strict=True))
        base = law(point)
        design = np.stack([law(point, **{n: 1.0}) - base for n in linear], axis=1) / scale[:, None]
        right = (target - base) / scale
        sizes = np.linalg.norm(design, axis=0)
        if not np.all(np.isfinite(design)) or not np.all(sizes > 0):
            continue
        if all(n in form.positive for n in linear):
            solution = nnls(design / sizes, right)[0]
            solution = np.maximum(solution, 1e-6 * max(solution.max(), 1e-30)) / sizes
        else:
            solution = np.linalg.lstsq(design / sizes, right, rcond=None)[0] / sizes
        found.append({**point, **dict(zip(linear, solution, strict=True))})
    return form.theta({n: np.array([f[n] for f in found]) for n in form.names})
