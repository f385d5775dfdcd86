"""Scaling laws (survey §3): arrays in, fits and decisions out; needs nothing else of effllm.

    runs = read_csv("runs.csv")                                   # params, tokens, loss
    fitted = fit(Chinchilla, runs)                                # E + A/N^α + B/D^β, converged or not
    draws = bootstrap(fitted, 4000)                               # intervals of everything that follows
    plan = optimal(draws.law(1), 1e22)                            # N and D for 1e22 FLOPs, one for each draw
    draws.interval(plan.params)
"""

from effllm.scaling.bootstrap import Draws, Interval, bootstrap
from effllm.scaling.compare import Comparison, compare
from effllm.scaling.conventions import Cost, Count, FineGrainedExperts, NonEmbedding, Shape, SixN, SixNonEmbedding, Total, WithAttention, convert
from effllm.scaling.design import Design, candidates, design
from effllm.scaling.directories import read_directories
from effllm.scaling.emergence import Emergence, Trend, emergence, trend
from effllm.scaling.envelope import Envelope, envelope
from effllm.scaling.experts import ExpertPlan, with_experts
from effllm.scaling.fit import Fit, fit
from effllm.scaling.frontier import Power, regress
from effllm.scaling.holdout import HoldOut, holdout, predict
from effllm.scaling.isoflop import IsoFlop, akima, bias, isoflop, parabola
from effllm.scaling.laplace import covariance, laplace
from effllm.scaling.law import Law
from effllm.scaling.laws import *  # noqa: F403
from effllm.scaling.laws import __all__ as _laws
from effllm.scaling.machine import Machine
from effllm.scaling.numeric import float64
from effllm.scaling.objective import Huber, LogHuber, LogSquares, Objective, Squares
from effllm.scaling.optimal import Plan, cheapest, far, optimal, over_trained
from effllm.scaling.profile import Profile, profile
from effllm.scaling.runs import Runs, read_csv

__all__ = [
    "Comparison", "Cost", "Count", "Design", "Draws", "Emergence", "Envelope", "ExpertPlan", "FineGrainedExperts", "Fit", "HoldOut", "Huber", "Interval", "IsoFlop",
    "Law", "LogHuber", "LogSquares", "Machine", "NonEmbedding", "Objective", "Plan", "Power", "Profile", "Runs", "Shape", "SixN", "SixNonEmbedding", "Squares", "Total",
    "Trend", "WithAttention", "akima", "bias", "bootstrap", "candidates", "cheapest", "compare", "convert", "covariance", "design", "emergence",
    "envelope", "far", "fit", "float64", "holdout", "isoflop", "laplace", "optimal", "over_trained", "parabola", "predict", "profile", "read_csv",
    "read_directories", "regress", "trend", "with_experts", *_laws,
]  # fmt: skip
