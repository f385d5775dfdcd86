"""Thousands of Chinchilla fits: effllm's batched solver beside SciPy on the same draws and starts, in one process; and the PyPI package `chinchilla`.

    python -m experiments.speed.scaling_fit.run [--runs RUNS.csv] [--chinchilla-python PYTHON]
"""

import argparse
import datetime
import itertools
import json
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
from scipy.optimize import minimize

from effllm.cli.rundir import hardware
from effllm.scaling import Chinchilla, LogHuber, Runs, fit, read_csv
from effllm.scaling.law import form_of
from effllm.scaling.laws.hoffmann import GRID
from effllm.scaling.solver import minimise
from experiments.speed import measure

DELTA, DRAWS, NUMERIC, GRID_SHARE = 1e-3, 4000, 200, 15


def planted(count: int = 240) -> Runs:
    """As many runs as Besiroglu et al. fitted, of the spread that theirs have: heavy-tailed residuals of about half a percent."""
    rng = np.random.default_rng(0)
    compute, ratio = 10 ** rng.uniform(18, 21.5, count), 10 ** rng.uniform(0, 2.5, count)
    params = np.sqrt(compute / (6 * ratio))
    loss = Chinchilla()(params, params * ratio) * np.exp(0.004 * rng.standard_t(3, count))
    return Runs({"params": params, "tokens": params * ratio, "loss": loss})


def objective(theta, log_n, log_d, log_l, weights):
    """Σ w Huber(ln L̂ − ln L) and its gradient, in NumPy."""
    e, a, b, alpha, beta = theta
    terms = np.exp(np.stack([np.full_like(log_n, e), a - alpha * log_n, b - beta * log_d]))
    total = terms.sum(0)
    r = np.log(total) - log_l
    size = np.abs(r)
    value = weights @ np.where(size <= DELTA, 0.5 * r * r, DELTA * (size - 0.5 * DELTA))
    share = terms / total * (weights * np.clip(r, -DELTA, DELTA))
    return value, np.array([share[0].sum(), share[1].sum(), share[2].sum(), -share[1] @ log_n, -share[2] @ log_d])


def value_only(theta, *data):
    return objective(theta, *data)[0]


def cpu(function):
    """(result, CPU seconds of this process, wall seconds)."""
    wall, start = time.perf_counter(), time.process_time()
    result = function()
    return result, time.process_time() - start, time.perf_counter() - wall


def scipy_fits(starts, weights_bn, data, **options):
    found = [minimize(x0=x, args=(*data, w), **options).fun for x, w in zip(starts, weights_bn, strict=True)]
    return np.array(found)


ANALYTIC = {"fun": objective, "jac": True, "method": "L-BFGS-B", "options": {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000, "maxfun": 10000}}
NUMERICAL = {"fun": value_only, "method": "BFGS", "options": {"gtol": 1e-7}}


def bootstrap_benchmark(runs: Runs) -> dict:
    """The same resamples from the same start, the fit of all runs."""
    form, loss = form_of(Chinchilla), LogHuber(DELTA)
    columns, target = [runs["params"], runs["tokens"]], runs["loss"]
    data = (np.log(runs["params"]), np.log(runs["tokens"]), np.log(target))
    weights_bn = np.random.default_rng(0).multinomial(runs.size, np.full(runs.size, 1 / runs.size), size=DRAWS).astype(float)
    start = form.theta(fit(Chinchilla, runs).params)
    theta_bp = np.tile(start, (DRAWS, 1))
    _, cold, cold_wall = cpu(lambda: minimise(form, loss, columns, target, theta_bp, weights_bn))
    ours, ours_cpu, ours_wall = cpu(lambda: minimise(form, loss, columns, target, theta_bp, weights_bn))
    scipy, scipy_cpu, _ = cpu(lambda: scipy_fits(theta_bp, weights_bn, data, **ANALYTIC))
    _, numeric_cpu, _ = cpu(lambda: scipy_fits(theta_bp[:NUMERIC], weights_bn[:NUMERIC], data, **NUMERICAL))
    lowest = np.minimum(ours.objective_b, scipy)
    return {
        "draws": DRAWS, "runs": runs.size, "converged": float(ours.converged_b.mean()),
        "ours_cpu_seconds": ours_cpu, "ours_wall_seconds": ours_wall, "ours_first_call_cpu_seconds": cold, "ours_first_call_wall_seconds": cold_wall,
        "scipy_analytic_cpu_seconds": scipy_cpu, "scipy_numeric_cpu_seconds_per_fit": numeric_cpu / NUMERIC, "scipy_numeric_fits": NUMERIC,
        "ours_worst_gap": float((ours.objective_b / lowest - 1).max()), "scipy_worst_gap": float((scipy / lowest - 1).max()),
        "times_analytic": scipy_cpu / ours_cpu, "times_numeric": numeric_cpu / NUMERIC * DRAWS / ours_cpu,
    }  # fmt: skip


def grid_benchmark(runs: Runs) -> dict:
    """Hoffmann's 4,500 starts; SciPy on every fifteenth."""
    fit(Chinchilla, runs, starts={n: v[:1] if n in "AB" else v for n, v in GRID.items()})
    found, seconds, wall = cpu(lambda: fit(Chinchilla, runs, starts=GRID))
    form = form_of(Chinchilla)
    starts = np.array(list(itertools.product(*(GRID[n] for n in form.names))))[::GRID_SHARE]
    starts = form.theta(dict(zip(form.names, starts.T, strict=True)))
    data = (np.log(runs["params"]), np.log(runs["tokens"]), np.log(runs["loss"]))
    ones = np.ones((len(starts), runs.size))
    with np.errstate(all="ignore"):
        scipy, scipy_cpu, _ = cpu(lambda: scipy_fits(starts, ones, data, **ANALYTIC))
    return {
        "starts": found.n_starts, "ours_cpu_seconds": seconds, "ours_wall_seconds": wall, "ours_at_best": found.n_starts_at_best / found.n_starts,
        "scipy_starts": len(starts), "scipy_cpu_seconds_per_start": scipy_cpu / len(starts),
        "scipy_at_best": float((scipy <= found.objective * 1.001).mean()), "scipy_best_over_ours": float(np.nanmin(scipy) / found.objective - 1),
    }  # fmt: skip


PEER = """
import json, logging, sys, tempfile, time, numpy as np
from chinchilla import Chinchilla
from chinchilla._metrics import log_huber
runs = json.load(sys.stdin)
grid = dict(E=np.exp([0.3, 0.8]), a=[3.0, 8.0], b=[5.0, 9.0], alpha=[0.2, 0.5], beta=[0.2, 0.5])
cc = Chinchilla(project_dir=tempfile.mkdtemp(), param_grid=grid, loss_fn=log_huber, log_level=40)
for n, d, l in zip(runs["params"], runs["tokens"], runs["loss"]):
    cc.database.append(C=6 * n * d, N=n, D=d, loss=l)
start = time.perf_counter()
cc.fit(parallel=True)
seconds = time.perf_counter() - start
L = np.log(cc.E + cc.A / np.array(runs["params"]) ** cc.alpha + cc.B / np.array(runs["tokens"]) ** cc.beta)
r = np.abs(L - np.log(runs["loss"]))
print(json.dumps(dict(starts=32, wall_seconds=seconds, objective=float(np.where(r <= 1e-3, r * r / 2, 1e-3 * (r - 5e-4)).sum()))))
"""


def peer_benchmark(runs: Runs, python: str) -> dict:
    """The package `chinchilla` on the same runs from 32 starts (it has no bootstrap), with its log-Huber loss; ours from as many, both wall."""
    columns = json.dumps({n: list(runs[n]) for n in ("params", "tokens", "loss")})
    done = subprocess.run([python, "-c", PEER], input=columns, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the package chinchilla failed:\n{done.stderr[-2000:]}")
    grid = {"E": tuple(np.exp([0.3, 0.8])), "A": tuple(np.exp([3.0, 8.0])), "B": tuple(np.exp([5.0, 9.0])), "alpha": (0.2, 0.5), "beta": (0.2, 0.5)}
    fit(Chinchilla, runs, starts=grid)
    found, _, wall = cpu(lambda: fit(Chinchilla, runs, starts=grid))
    return json.loads(done.stdout.splitlines()[-1]) | {"ours_wall_seconds": wall, "ours_objective": found.objective}


def table(results: dict) -> str:
    b, g, p = results["bootstrap"], results["grid"], results.get("peer")
    lines = [
        f"{results['hardware']}; {', '.join(f'{k} {v}' for k, v in results['versions'].items())}; {results['date']}. Runs: {results['runs']}.", "",
        f"{b['draws']:,} bootstrap draws of {b['runs']} runs, float64, from the fit of all runs; CPU time of the process.", "",
        "| | CPU ms a fit | worst gap | effllm is faster by |", "|---|---|---|---|",
        f"| SciPy BFGS, numeric gradients ({b['scipy_numeric_fits']} of the draws) | {1e3 * b['scipy_numeric_cpu_seconds_per_fit']:.1f} | | {b['times_numeric']:.1f}× |",
        f"| SciPy L-BFGS-B, analytic gradients (all draws) | {1e3 * b['scipy_analytic_cpu_seconds'] / b['draws']:.2f} | {b['scipy_worst_gap']:.0e} | {b['times_analytic']:.1f}× |",
        f"| effllm | {1e3 * b['ours_cpu_seconds'] / b['draws']:.2f} | {b['ours_worst_gap']:.0e} | |", "",
        f"All draws: **{b['ours_wall_seconds']:.1f} s** wall ({b['ours_first_call_wall_seconds']:.1f} s when it compiles first); {b['converged']:.2%} converged. "
        "The gap is an objective's relative excess over the lower of SciPy's L-BFGS-B and ours.", "",
        f"Hoffmann's grid of {g['starts']:,} starts: effllm **{g['ours_wall_seconds']:.1f} s** wall, {g['ours_cpu_seconds']:.1f} s CPU, {g['ours_at_best']:.0%} of starts within 0.1 % of the best; "
        f"SciPy L-BFGS-B {1e3 * g['scipy_cpu_seconds_per_start']:.1f} ms CPU a start on every {GRID_SHARE}th ({g['scipy_starts'] and g['scipy_cpu_seconds_per_start'] * g['starts']:.0f} s for all, extrapolated), {g['scipy_at_best']:.0%} of them.",
    ]  # fmt: skip
    if p:
        lines += ["", f"The package `chinchilla`: {p['starts']} starts in {p['wall_seconds']:.1f} s wall (its process pool), objective {p['objective']:.6g}; effllm from the same starts "
                  f"{p['ours_wall_seconds']:.2f} s wall, objective {p['ours_objective']:.6g}."]  # fmt: skip
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", help="CSV with params, tokens, loss; by default 240 planted runs")
    parser.add_argument("--chinchilla-python", help="a Python that has the package chinchilla")
    options = parser.parse_args()
    runs = read_csv(options.runs) if options.runs else planted()
    results = {
        "runs": "of --runs" if options.runs else "240 planted (seed 0)", "hardware": hardware(), "device": jax.devices()[0].device_kind,
        "versions": measure.versions("jax", "scipy", "numpy"), "date": datetime.date.today().isoformat(),
        "bootstrap": bootstrap_benchmark(runs), "grid": grid_benchmark(runs),
    }  # fmt: skip
    if options.chinchilla_python:
        results["peer"] = peer_benchmark(runs, options.chinchilla_python)
    measure.save(Path(__file__).parent, results, table(results))
    print(table(results))


if __name__ == "__main__":
    main()
