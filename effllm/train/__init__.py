"""Training (survey §6.1): state, step, loop, optimizers, schedules, checkpoints. Knows no model: loss_fn, tx and batches come in."""

from effllm.train.checkpoint import Checkpoints, last_saved
from effllm.train.distributed import initialise, local_rows, to_global
from effllm.train.log import Lines, read
from effllm.train.loop import Every, Outcome, run
from effllm.train.optimizer import AdamW, Optimizer, skip_nonfinite
from effllm.train.schedule import WSD, Constant, Cosine, Schedule
from effllm.train.select import selecting
from effllm.train.selection import GradientNorm, Judge, RHOLoss, Selection, SoftLoss, TopLoss
from effllm.train.step import TrainState, accumulate, from_items, gradient, init_state, items, train_step

__all__ = [
    "AdamW", "Checkpoints", "Constant", "Cosine", "Every", "GradientNorm", "Judge", "Lines", "Optimizer", "Outcome", "RHOLoss", "Schedule", "Selection",
    "SoftLoss", "TopLoss", "TrainState", "WSD",
    "accumulate", "from_items", "gradient", "init_state", "initialise", "items", "last_saved", "local_rows", "read", "run", "selecting", "skip_nonfinite",
    "to_global", "train_step",
]  # fmt: skip
