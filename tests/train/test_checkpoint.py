"""Checkpoints of a run that somebody else looks at."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm.config.program import parameters
from effllm.train import Checkpoints

PARAMS = {"w": jnp.arange(6.0)}
TARGET = {"params": jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), PARAMS)}


@pytest.fixture
def folder(tmp_path):
    """A run with a checkpoint of step 1, in the middle of saving step 2."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, {"params": PARAMS}, {})
    checkpoints.wait()
    checkpoints.close()
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
    return tmp_path / "checkpoints"


def test_a_reader_leaves_a_save_in_progress_alone(folder):
    program = SimpleNamespace(abstract=SimpleNamespace(params=TARGET["params"]))
    step, params = parameters(folder.parent, program, pytest.fail)
    assert step == 1 and (folder / "2.orbax-checkpoint-tmp").exists()
    np.testing.assert_array_equal(params["w"], PARAMS["w"])


def test_the_next_start_removes_what_a_killed_save_left(folder):
    checkpoints = Checkpoints(folder)
    checkpoints.save(3, {"params": PARAMS}, {})  # waits for the removal, which runs beside
    checkpoints.wait()
    checkpoints.close()
    assert sorted(p.name for p in folder.iterdir()) == ["1", "3"]
