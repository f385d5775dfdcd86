"""Programs compiled for TPUs that are not there, by the `aot` extra."""

import fcntl
import importlib.util
import os
import tempfile

import jax
import pytest


def tpu_program(topology: str, function, arrays, monkeypatch) -> str:
    """What `function` of these arrays, or of their shapes, is compiled to for one device of the topology; skips the test where libtpu is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install -e '.[aot]'")
    from jax.experimental import topologies
    from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

    for variable, value in {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}.items():
        monkeypatch.setenv(variable, value)
    jax.jit(lambda x: x + 1)(0)  # now the CPU has read XLA_FLAGS: libtpu ends the process at a flag that it does not know
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with open(os.path.join(tempfile.gettempdir(), "effllm-libtpu-lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process at a time may hold libtpu
        device = topologies.get_topology_desc(topology, platform="tpu").devices[0]
        on_it = jax.sharding.SingleDeviceSharding(device)
        kind = AbstractDevice(device_kind=device.device_kind, num_cores=device.num_cores, platform="tpu")  # Mosaic asks what it lowers for
        with use_abstract_mesh(AbstractMesh((1,), ("x",), (AxisType.Auto,), abstract_device=kind)):
            lowered = jax.jit(function, in_shardings=on_it, out_shardings=on_it).lower(*arrays)
        return lowered.compile().as_text()
