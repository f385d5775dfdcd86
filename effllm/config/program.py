"""From an experiment to jitted functions on a mesh."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta
from jax.sharding import NamedSharding, PartitionSpec

from effllm.config import tree
from effllm.config.experiment import Experiment
from effllm.config.files import read_config
from effllm.data import Batches, Codec, Dataset, load_codec
from effllm.nn import NextToken, RowGradientNorm, RowLoss, at_step
from effllm.shard import axis_size, shardings, spec
from effllm.train import (
    Checkpoints, Judge, TrainState, accumulate, gradient, init_state, local_rows, selecting, skip_nonfinite, to_global, train_step,
)  # fmt: skip
from effllm.train.optimizer import skipped


@dataclass(frozen=True)
class Program:
    """An experiment on its mesh. `abstract` is the state's shapes, dtypes and shardings; nothing is computed before `init` is called."""

    experiment: Experiment
    mesh: jax.sharding.Mesh
    abstract: TrainState
    batch_sharding: NamedSharding
    jitted_init: Any
    jitted_step: Any
    jitted_loss: Any

    def init(self) -> TrainState:
        """The state before the first step, each array born with its sharding."""
        with jax.set_mesh(self.mesh):
            return self.jitted_init(np.uint32(self.experiment.seed))

    def step(self, state: TrainState, batch: dict[str, jax.Array], step: int = 0) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update, with the model as it is at `step` of the run; the given state is consumed."""
        model = at_step(self.experiment.model, step, self.experiment.steps)
        with jax.set_mesh(self.mesh):
            return self.jitted_step(state, batch, self.reference_params, model=model)

    def loss(self, params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Metrics on a batch, without dropout and without an update."""
        with jax.set_mesh(self.mesh):
            return self.jitted_loss(params, batch)

    @functools.cached_property
    def reference_params(self) -> Any:
        """The parameters of the run that `select` compares with, loaded when first asked for; None where it needs none."""
        path = getattr(self.experiment.select, "reference", None)
        if path is None:
            return None
        return parameters(path, assemble(_reference_of(self.experiment, self.mesh), list(self.mesh.devices.flat)))[1]

    @property
    def rows(self) -> range:
        """The rows of the global batch that this process feeds."""
        data = self.experiment.data
        return local_rows(self.batch_sharding, (data.batch_size, data.sequence_length))

    def place(self, batch: dict[str, Any]) -> dict[str, jax.Array]:
        """Global arrays from this process's rows of a batch."""
        return to_global(batch, self.batch_sharding, self.rows, self.experiment.data.batch_size)

    def train_batches(self, dataset: Dataset, start: int) -> Batches:
        """This process's rows of the batches from step `start` on."""
        data = self.experiment.data
        return dataset.train_batches(
            seed=self.experiment.seed, batch_size=data.batch_size, rows=self.rows, start=start, workers=data.workers,
            curriculum=data.curriculum, steps=self.experiment.steps,
        )  # fmt: skip

    def held_out_batches(self, dataset: Dataset, limit: int | None = None):
        """Placed batches of the held-out split, in order."""
        batches = dataset.held_out_batches(batch_size=self.experiment.data.batch_size, rows=self.rows, limit=limit)
        return map(self.place, batches)

    def row_losses(self, dataset: Dataset, params: Any) -> np.ndarray:
        """(N,) float32, the mean loss of every training record in stored order. Raises ValueError under several processes."""
        if jax.process_count() > 1:
            raise ValueError("row losses are written by one process: run effllm eval --row-losses without --distributed")
        score = jax.jit(functools.partial(RowLoss(), self.experiment.model))
        with jax.set_mesh(self.mesh):
            batches = dataset.held_out_batches(batch_size=self.experiment.data.batch_size, split="train")
            found = [np.asarray(score(params, self.place(batch))) for batch in batches]
        return np.concatenate(found)[: dataset.records("train")]


def parameters(directory: str | Path, program: Program, warn: Callable[[str], None] = lambda text: None) -> tuple[int, Any]:
    """(step, parameters) of a run's newest whole checkpoint. Raises ValueError where there is none."""
    folder = Path(directory) / "checkpoints"
    checkpoints = Checkpoints(folder, read_only=True) if folder.is_dir() else None
    found = checkpoints and checkpoints.restore({"params": program.abstract.params}, warn)
    if not found:
        raise ValueError(f"{directory} has no checkpoint yet; effllm train continues it")
    checkpoints.close()
    return found[0], found[1]["params"]


def _reference_of(experiment: Experiment, mesh: jax.sharding.Mesh) -> Experiment:
    """The reference run of `select`, as it scores the batches of `experiment`. Raises ValueError for one that cannot."""
    where = f"select.reference={experiment.select.reference}"
    reference = read_config(experiment.select.reference)
    if reference.data.tokenizer != experiment.data.tokenizer:
        raise ValueError(f"{where} has tokenizer {reference.data.tokenizer}, this run {experiment.data.tokenizer}: use the same")
    if not isinstance(reference.objective, NextToken):
        raise ValueError(f"{where} learned {type(reference.objective).__name__}, which has no loss of next tokens: give a run of objective=NextToken()")
    try:
        reference.model.within_limit(experiment.data.sequence_length)
        check_devices(reference, mesh)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    same = {"mesh": experiment.mesh, "accumulate": 1, "data": dataclasses.replace(reference.data, batch_size=experiment.data.batch_size)}
    return dataclasses.replace(reference, **same)


def check_reference(program: Program, codec: Codec) -> None:
    """Raise ValueError for a reference run of `select` that cannot score this run's batches, a tokenizer fitted to another text included."""
    path = getattr(program.experiment.select, "reference", None)
    if path is None:
        return
    _reference_of(program.experiment, program.mesh)
    theirs = load_codec(path)
    if theirs.library_json() != codec.library_json() or (theirs.bos, theirs.eos) != (codec.bos, codec.eos):
        raise ValueError(f"select.reference={path} fitted its tokenizer to another text: train both with data.tokenizer=TokenizerFile(…) of one file")


def check_batch(experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
    """Raise ValueError if the mesh or the micro-batches do not divide the batch, or what `select` keeps of it."""
    parts, size = axis_size("batch", mesh), experiment.data.batch_size
    if size % parts:
        raise ValueError(f"data.batch_size={size} is not divisible by mesh data×fsdp={parts}; use a multiple of {parts}")
    learned, what = size, "data.batch_size"
    if experiment.select is not None:
        learned, what = experiment.select.count(size), f"select.keep={experiment.select.keep} of data.batch_size={size}"
    if learned % (parts * experiment.accumulate):
        raise ValueError(
            f"{what}={learned} is not divisible by accumulate={experiment.accumulate} × mesh data×fsdp={parts}; "
            f"use a multiple of {parts * experiment.accumulate}"
        )


def check_devices(experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
    """Raise ValueError for a field that asks for a kernel which the mesh's devices cannot run."""
    platform = mesh.devices.flat[0].platform
    wrong = [path for path, value in tree.walk(experiment) if path.endswith(".implementation") and value == "pallas"]
    if wrong and platform not in ("gpu", "tpu"):
        raise ValueError(f"{wrong[0]}=pallas needs a GPU or TPU, here is a {platform}; set {' and '.join(f'{path}=None' for path in wrong)}")


def _selecting(experiment: Experiment, model: Any, reference_params: Any, grad_fn: Callable) -> Callable:
    """grad_fn on the rows that `select` chooses, of a batch of any multiple of data.batch_size rows."""
    select, size, reference = experiment.select, experiment.data.batch_size, None
    if reference_params is not None:
        reference = functools.partial(RowLoss(), read_config(select.reference).model, reference_params)
    judge = Judge(functools.partial(RowLoss(), model), functools.partial(RowGradientNorm(), model), reference)

    def choose(key, score_n):
        return select.choose(key, score_n, select.count(size) * (len(score_n) // size))

    return selecting(grad_fn, lambda params, batch, key: select.score(judge, params, batch), choose)


def assemble(experiment: Experiment, devices: Any = None) -> Program:
    """Build the mesh and the jitted functions of a validated experiment. Raises ValueError for what does not fit together."""
    mesh = experiment.mesh.build(devices)
    check_batch(experiment, mesh)
    model, tx = experiment.model, skip_nonfinite(experiment.optimizer.tx(experiment.steps))
    loss_fn = functools.partial(experiment.objective, model)

    def boxed_init(seed):
        init_key, train_key = jax.random.split(jax.random.key(seed))
        tokens = jnp.zeros((axis_size("batch", mesh), min(8, experiment.data.sequence_length)), jnp.int32)
        return init_state(model.init(init_key, tokens)["params"], tx, train_key)

    def init(seed):
        return meta.unbox(boxed_init(seed))

    def step(state, batch, reference_params=None, *, model=at_step(model, 0, experiment.steps)):
        grad_fn = accumulate(gradient(functools.partial(experiment.objective, model)), experiment.accumulate)
        if experiment.select is not None:
            grad_fn = _selecting(experiment, model, reference_params, grad_fn)
        updates = state.step - skipped(state.opt_state)["skipped"]  # a skipped step moves no schedule on
        state, metrics = train_step(state, batch, grad_fn=grad_fn, tx=tx)
        return state, metrics | {"learning_rate": experiment.optimizer.rate(updates, experiment.steps)}

    def loss(params, batch):
        return loss_fn(params, batch, None)[1]

    with jax.set_mesh(mesh):
        boxed = jax.eval_shape(boxed_init, np.uint32(0))
    placed = shardings(boxed, mesh)
    abstract = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), meta.unbox(boxed), placed)
    whole = NamedSharding(mesh, PartitionSpec())
    return Program(
        experiment, mesh, abstract, NamedSharding(mesh, spec("batch", "length")),
        jitted_init=jax.jit(init, out_shardings=placed),
        jitted_step=jax.jit(step, out_shardings=(placed, whole), donate_argnums=0, static_argnames="model"),
        jitted_loss=jax.jit(loss, out_shardings=whole),
    )  # fmt: skip
