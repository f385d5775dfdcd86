"""Many robust non-linear fits at once.

minimise over θ:  f(θ) = Σ_i w_i ρ(r_i(θ)).  Every iteration tries two damped steps from the same gradient g = Σ w ψ(r) J and keeps the better:

  reweighted  (Jᵀ W J + λ diag) s = −g,  W = w ψ(r)/r            Levenberg–Marquardt on iteratively reweighted least squares: sure, linear
  Newton      (Jᵀ w ψ′(r) J + Σ w ψ(r) ∇²r + λ′ diag) s = −g      with the curvature of the kinked ρ: unsure, quadratic

Problems are advanced in chunks that fit a cache, ten iterations a call; one that has converged leaves its place to the next in the queue, so
that stragglers cost only themselves. A problem has converged when the undamped Newton decrement promises less than 1e-9 of f.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from effllm.scaling.law import Form
from effllm.scaling.numeric import float64
from effllm.scaling.objective import Objective

CHUNKS, ROUND, LIMIT = (16, 64, 256), 10, 200
PAD = 16
TOLERANCE, FLOOR = 1e-9, 1e-20


@dataclass(frozen=True)
class Solved:
    """theta_bp, objective_b, converged_b and iterations_b of B problems."""

    theta_bp: np.ndarray
    objective_b: np.ndarray
    converged_b: np.ndarray
    iterations_b: np.ndarray


def solve_spd(matrix_spp: jax.Array, right_p: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(x (S, p), positive definite? (S,)) of S symmetric systems with one right side, by elimination without pivoting.

    A loop of array operations: XLA vectorises it over systems and problems, where LAPACK would be called for each.
    """
    systems, p, _ = matrix_spp.shape
    augmented = jnp.concatenate([matrix_spp, jnp.broadcast_to(right_p, (systems, p))[..., None]], axis=-1)

    def eliminate(k, carry):
        rows, definite = carry
        pivot = rows[:, k, k]
        row = rows[:, k] / jnp.where(pivot > 0, pivot, 1.0)[:, None]
        rows = (rows - rows[:, :, k][:, :, None] * row[:, None, :]).at[:, k].set(row)
        return rows, definite & (pivot > 0)

    rows, definite = jax.lax.fori_loop(0, p, eliminate, (augmented, jnp.ones(systems, bool)))
    return rows[:, :, p], definite


def residuals(form: Form, objective: Objective, theta: jax.Array, columns: list[jax.Array], target: jax.Array) -> jax.Array:
    """r (n,) of one problem."""
    return objective.residual(form.predict(form.natural(theta), columns), target)


def value(form: Form, objective: Objective, theta: jax.Array, columns: list[jax.Array], target: jax.Array, weights: jax.Array) -> jax.Array:
    """f of one problem; infinite where a residual of a run with weight is not finite."""
    r = jnp.where(weights > 0, residuals(form, objective, theta, columns, target), 0.0)
    f = jnp.sum(weights * objective.rho(r))
    return jnp.where(jnp.isfinite(f), f, jnp.inf)


def derivatives(r_fn: Callable, objective: Objective, weights: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(gradient (p,), reweighted Gauss–Newton matrix (p, p), true Hessian (p, p)) of f at z."""
    used = weights > 0
    r = jnp.where(used, r_fn(z), 0.0)
    jacobian = jnp.where(used[:, None], jax.jacfwd(r_fn)(z), 0.0)
    pull, steep, firm = weights * objective.psi(r), weights * objective.slope(r), weights * objective.reweight(r)
    curvature = jax.hessian(lambda q: jnp.sum(jnp.where(used, pull * r_fn(q), 0.0)))(z)
    products = jacobian[:, :, None] * jacobian[:, None, :]
    return pull @ jacobian, jnp.sum(firm[:, None, None] * products, axis=0), jnp.sum(steep[:, None, None] * products, axis=0) + curvature


@functools.partial(jax.jit, static_argnames=("form", "objective", "free", "rounds"))
def advance(form: Form, objective: Objective, free: tuple[int, ...], columns, target, state, weights_bn, rounds: int):
    """`rounds` iterations of every problem. state: (theta_bp, f_b, damping_b, newton_damping_b, decrement_b)."""
    index = jnp.asarray(free)

    def iterate(weights, state):
        theta, f, lam, mu, _ = state
        gradient, gauss, true = derivatives(lambda z: residuals(form, objective, theta.at[index].set(z), columns, target), objective, weights, theta[index])
        diagonal = jnp.diagonal(gauss)
        scale = jnp.diag(diagonal + 1e-12 * jnp.max(diagonal) + 1e-200)
        systems = jnp.stack([gauss + (lam + 1e-14) * scale, true + (mu + 1e-14) * scale, true + 1e-14 * scale])
        (gauss_step, newton_step, bare), (_, newton_fits, definite) = solve_spd(systems, -gradient)
        decrement = -0.5 * jnp.sum(bare * gradient)
        tried = [theta.at[index].add(step) for step in (gauss_step, newton_step)]
        f_gauss, f_newton = (value(form, objective, t, columns, target, weights) for t in tried)
        f_newton = jnp.where(newton_fits, f_newton, jnp.inf)
        best, better = jnp.minimum(f_gauss, f_newton), jnp.minimum(f_gauss, f_newton) < f
        lam = jnp.clip(jnp.where(f_gauss < f, 0.2 * lam, 8 * lam), 1e-12, 1e8)
        mu = jnp.clip(jnp.where(f_newton < f, 0.1 * mu, 5 * mu), 1e-12, 1e6)
        theta = jnp.where(better, jnp.where(f_newton < f_gauss, tried[1], tried[0]), theta)
        return theta, jnp.where(better, best, f), lam, mu, jnp.where(definite, decrement, jnp.inf)

    def one(weights, state):
        return jax.lax.fori_loop(0, rounds, lambda _, s: iterate(weights, s), state)

    return jax.vmap(one, in_axes=(0, 0))(weights_bn, state)


@functools.partial(jax.jit, static_argnames=("form", "objective"))
def values(form: Form, objective: Objective, theta_bp, columns, target, weights_bn):
    """f (B,) of B problems."""
    return jax.vmap(lambda t, w: value(form, objective, t, columns, target, w))(theta_bp, weights_bn)


def minimise(
    form: Form, objective: Objective, columns: list[np.ndarray], target: np.ndarray, theta_bp: np.ndarray, weights_bn: np.ndarray,
    free: tuple[int, ...] | None = None, chunk: int | None = None, progress: Callable[[int], None] = lambda done: None,
) -> Solved:  # fmt: skip
    """Solve B problems that share runs and differ in starts and weights.

    columns: p_in arrays (n,); theta_bp: starts; weights_bn: (B, n), or (1, n) for all; free: indices of the parameters that move (all by default;
    where none does, the starts are the answer).
    chunk: how many advance together, by default the smallest of CHUNKS that holds all, or the largest. Runs are padded to a multiple of PAD with runs of
    no weight: few shapes mean few compilations. progress is called with the number of problems finished since it was last called.
    """
    problems = len(theta_bp)
    free = tuple(range(theta_bp.shape[1])) if free is None else free
    chunk = chunk or next((c for c in CHUNKS if c >= problems), CHUNKS[-1])
    pad = -len(target) % PAD
    columns, target = [np.pad(np.asarray(c, float), (0, pad), mode="edge") for c in columns], np.pad(np.asarray(target, float), (0, pad), mode="edge")
    theta_bp, weights_bn = np.array(theta_bp, float), np.pad(np.asarray(weights_bn, float), ((0, 0), (0, pad)))
    of = (lambda rows: weights_bn[rows]) if len(weights_bn) == problems else (lambda rows: np.broadcast_to(weights_bn[0], (len(rows), weights_bn.shape[1])))
    f_b, decrement_b, iterations_b = np.full(problems, np.inf), np.full(problems, np.inf), np.zeros(problems, int)
    damping_b, newton_b, converged_b = np.full(problems, 1e-2), np.full(problems, 1e-2), np.zeros(problems, bool)
    floor_b = FLOOR * (weights_bn.sum(1) if len(weights_bn) == problems else np.full(problems, weights_bn.sum()))
    with float64():
        columns, target = [jnp.asarray(c) for c in columns], jnp.asarray(target)
        if not free:
            f_b = np.asarray(values(form, objective, theta_bp, columns, target, of(np.arange(problems))))
            return Solved(theta_bp, f_b, np.isfinite(f_b), iterations_b)
        waiting, running = list(range(problems))[::-1], []
        while waiting or running:
            new = [waiting.pop() for _ in range(min(chunk - len(running), len(waiting)))]
            rows = np.array(running + new)
            rows_padded = np.concatenate([rows, np.repeat(rows[-1], chunk - len(rows))])
            weights = of(rows_padded)
            if new:
                started = np.asarray(values(form, objective, theta_bp[rows_padded], columns, target, weights))
                f_b[new] = started[len(running) : len(rows)]
            state = tuple(a[rows_padded] for a in (theta_bp, f_b, damping_b, newton_b, decrement_b))
            state = [np.asarray(a)[: len(rows)] for a in advance(form, objective, free, columns, target, state, weights, ROUND)]
            for array, fresh in zip((theta_bp, f_b, damping_b, newton_b, decrement_b), state, strict=True):
                array[rows] = fresh
            iterations_b[rows] += ROUND
            converged_b[rows] = np.abs(decrement_b[rows]) <= TOLERANCE * f_b[rows] + floor_b[rows]
            left = ~converged_b[rows] & (iterations_b[rows] < LIMIT) & np.isfinite(f_b[rows])
            running = rows[left].tolist()
            progress(len(rows) - len(running))
    return Solved(theta_bp, f_b, converged_b, iterations_b)
