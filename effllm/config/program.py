"""From an experiment to jitted functions on a mesh."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import meta
from jax.sharding import NamedSharding, PartitionSpec

from effllm.config.experiment import Experiment
from effllm.data import Batches, Dataset
from effllm.shard import axis_size, shardings, spec
from effllm.train import TrainState, accumulate, gradient, init_state, local_rows, skip_nonfinite, to_global, train_step


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
            return self.jitted_init(self.experiment.seed)

    def step(self, state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update; the given state is consumed."""
        with jax.set_mesh(self.mesh):
            return self.jitted_step(state, batch)

    def loss(self, params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Metrics on a batch, without dropout and without an update."""
        with jax.set_mesh(self.mesh):
            return self.jitted_loss(params, batch)

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
        return dataset.train_batches(seed=self.experiment.seed, batch_size=data.batch_size, rows=self.rows, start=start, workers=data.workers)

    def held_out_batches(self, dataset: Dataset, limit: int | None = None):
        """Placed batches of the held-out split, in order."""
        batches = dataset.held_out_batches(batch_size=self.experiment.data.batch_size, rows=self.rows, limit=limit)
        return map(self.place, batches)


def check_batch(experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
    """Raise ValueError if the mesh or the micro-batches do not divide the batch."""
    parts, size = axis_size("batch", mesh), experiment.data.batch_size
    if size % parts:
        raise ValueError(f"data.batch_size={size} is not divisible by mesh data×fsdp={parts}; use a multiple of {parts}")
    if size % (parts * experiment.accumulate):
        raise ValueError(
            f"data.batch_size={size} is not divisible by accumulate={experiment.accumulate} × mesh data×fsdp={parts}; "
            f"use a multiple of {parts * experiment.accumulate}"
        )


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

    def step(state, batch):
        state, metrics = train_step(state, batch, grad_fn=accumulate(gradient(loss_fn), experiment.accumulate), tx=tx)
        return state, metrics | {"learning_rate": experiment.optimizer.rate(state.step - 1, experiment.steps)}

    def loss(params, batch):
        return loss_fn(params, batch, None)[1]

    with jax.set_mesh(mesh):
        boxed = jax.eval_shape(boxed_init, 0)
    placed = shardings(boxed, mesh)
    abstract = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), meta.unbox(boxed), placed)
    whole = NamedSharding(mesh, PartitionSpec())
    return Program(
        experiment, mesh, abstract, NamedSharding(mesh, spec("batch", "length")),
        jitted_init=jax.jit(init, out_shardings=placed),
        jitted_step=jax.jit(step, out_shardings=(placed, whole), donate_argnums=0),
        jitted_loss=jax.jit(loss, out_shardings=whole),
    )  # fmt: skip
