"""The trained model of a run directory."""

import dataclasses

import jax

from effllm.config import Experiment, Program, assemble, override, read_config, validate
from effllm.config.files import changeable
from effllm.shard import MeshShape


def experiment_of(directory: str, config: str | None, overrides: tuple[str, ...] = ()) -> Experiment:
    """A run's experiment, with overrides of what may change. Raises ValueError for others."""
    experiment = read_config(directory, config)
    for text in overrides:
        path = text.partition("=")[0]
        if not changeable(path):
            raise ValueError(f"{path} is part of what was trained: only steps, intervals, mesh and where the data lies can differ here")
        experiment = override(experiment, text)
    return validate(experiment)


def on_one_device(experiment: Experiment) -> Program:
    """The experiment's functions on this process's first device."""
    return assemble(dataclasses.replace(experiment, mesh=MeshShape(1, 1, 1), accumulate=1), jax.local_devices()[:1])
