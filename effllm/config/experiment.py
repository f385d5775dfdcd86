"""The tree that a config file returns."""

import math
from dataclasses import dataclass

from effllm.config import tree
from effllm.data import Data
from effllm.nn import DecoderLM, LanguageModel, NextToken, Objective
from effllm.shard import MeshShape
from effllm.train import AdamW, Optimizer, Selection


@dataclass(frozen=True)
class Experiment:
    """Everything that decides what a run computes, and how often it says so.

    steps: updates in all. seed: of parameters, dropout and data order. accumulate: micro-batches an update. select: which rows of every batch a
    step learns from (None: all). log_every, eval_every, save_every: steps between lines of metrics.jsonl, evaluations on `eval_batches`
    held-out batches (0: only at the end, on all of them), and checkpoints, of which `keep` stay. prompt: what the report's sample goes on from.
    """

    model: LanguageModel = DecoderLM()
    data: Data = Data()
    objective: Objective = NextToken()
    optimizer: Optimizer = AdamW()
    mesh: MeshShape = MeshShape()
    steps: int = 1000
    seed: int = 0
    accumulate: int = 1
    select: Selection | None = None
    log_every: int = 10
    eval_every: int = 0
    eval_batches: int = 16
    save_every: int = 200
    keep: int = 3
    prompt: str = "def "


# What a run directory lets change between one start and the next, as it does every `implementation`. None of it changes what a step computes (a mesh or an
# implementation only its rounding), but for `steps`, over which the schedules of the learning rate and of the model stretch anew from there on.
CHANGEABLE = ("steps", "log_every", "eval_every", "eval_batches", "save_every", "keep", "prompt", "mesh", "data.workers", "data.cache")


def validate(experiment: Experiment) -> Experiment:
    """The experiment itself, if it can be run; ValueError names the first field that says it cannot."""
    tree.check(experiment)
    for name in ("steps", "accumulate", "log_every", "eval_batches", "keep"):
        if getattr(experiment, name) < 1:
            raise ValueError(f"{name}={getattr(experiment, name)} must be at least 1")
    if experiment.steps >= 2**31:
        raise ValueError(f"steps={experiment.steps} must be less than 2^31, what a counter of steps holds")
    for name in ("eval_every", "save_every"):
        if getattr(experiment, name) < 0:
            raise ValueError(f"{name}={getattr(experiment, name)} must not be negative; 0 means only at the end")
    if not 0 <= experiment.seed < 2**32:
        raise ValueError(f"seed={experiment.seed} must be a number from 0 to {2**32 - 1}")
    if not 0 <= (rate := getattr(experiment.optimizer, "learning_rate", 0.0)) < math.inf:
        raise ValueError(f"optimizer.learning_rate={rate} must be finite and not negative")
    experiment.model.validate()
    experiment.model.within_limit(experiment.data.sequence_length)
    experiment.objective.validate(experiment.model)
    if experiment.select is not None and not isinstance(experiment.objective, NextToken):
        raise ValueError(f"select={type(experiment.select).__name__} scores rows by the loss of their next tokens: it needs objective=NextToken()")
    return experiment
