"""The trained model of a run directory."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import meta

from effllm.cli.rundir import warn
from effllm.config import Experiment, Program, assemble, override, read_config, validate
from effllm.config.files import changeable
from effllm.config.program import parameters
from effllm.data import Codec, load_codec
from effllm.nn import DecoderLM, EncoderLM
from effllm.shard import MeshShape


def experiment_of(directory: str, config: str | None, overrides: tuple[str, ...] = ()) -> Experiment:
    """A run's experiment, with overrides of what may change. Raises ValueError for others."""
    experiment = read_config(directory, config)
    for text in overrides:
        path = text.partition("=")[0]
        if not changeable(path):
            raise ValueError(f"{path} is part of what was trained: only steps, intervals, implementations, mesh and where the data lies can differ here")
        experiment = override(experiment, text)
    return validate(experiment)


def on_one_device(experiment: Experiment) -> Program:
    """The experiment's functions on this process's first device."""
    return assemble(dataclasses.replace(experiment, mesh=MeshShape(1, 1, 1), accumulate=1), jax.local_devices()[:1])


def initial(directory: str, program: Program, codec: Codec) -> Any:
    """The parameters of another run's newest checkpoint, placed for this program. Raises ValueError where its model or tokenizer is another one."""
    before, now = read_config(directory).model, program.experiment.model
    shapes = [_shapes(model) for model in (before, now)]
    for path in sorted(set(shapes[0]) | set(shapes[1])):
        there, here = (s.get(path, "missing") for s in shapes)
        if there != here:
            raise ValueError(f"--init-from {directory}: parameter {path} is {there} there and {here} in this config; give both the same model")
    if (theirs := load_codec(directory)).library_json() != codec.library_json() or theirs.eos != codec.eos:
        raise ValueError(f"--init-from {directory} has another tokenizer: data.tokenizer=TokenizerFile(…) names one that both can have")
    return parameters(directory, program, warn)[1]


def _shapes(model: DecoderLM | EncoderLM) -> dict[str, tuple[int, ...]]:
    params = meta.unbox(jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
