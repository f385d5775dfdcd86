"""Several processes as one program."""

import jax
import numpy as np


def initialise(where: str) -> None:
    """Join the other processes of this run, before anything else touches a device.

    "auto" lets JAX find them in SLURM, Kubernetes, MPI or a TPU pod; "HOST:PORT,PROCESSES,INDEX" says them. CPU processes talk by Gloo.
    Raises ValueError where the environment is none of these.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if where == "auto":
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise ValueError(f"--distributed auto found no SLURM, Kubernetes, MPI or TPU pod here ({error}); give HOST:PORT,PROCESSES,INDEX") from error
        return
    address, *numbers = where.split(",")
    if ":" not in address or len(numbers) != 2 or not all(n.isdigit() for n in numbers):
        raise ValueError(f"--distributed {where!r} is neither auto nor HOST:PORT,PROCESSES,INDEX")
    jax.distributed.initialize(address, int(numbers[0]), int(numbers[1]), heartbeat_timeout_seconds=30)


def local_rows(sharding: jax.sharding.Sharding, shape: tuple[int, ...]) -> range:
    """The rows (first axis) of a global array that this process's devices hold, as one range."""
    slices = [index[0].indices(shape[0]) for index in sharding.addressable_devices_indices_map(shape).values()]
    return range(min(s[0] for s in slices), max(s[1] for s in slices))


def to_global(batch: dict[str, np.ndarray], sharding: jax.sharding.Sharding, rows: range, batch_size: int) -> dict[str, jax.Array]:
    """Global arrays of `batch_size` rows from this process's `rows` of them; of f·batch_size where the batch holds f for each."""

    def one(local):
        each = len(local) // len(rows)
        size = batch_size * each

        def part(index):
            start, stop, _ = index[0].indices(size)
            return local[start - each * rows.start : stop - each * rows.start]

        return jax.make_array_from_callback((size, *local.shape[1:]), sharding, part)

    return {name: one(local) for name, local in batch.items()}
