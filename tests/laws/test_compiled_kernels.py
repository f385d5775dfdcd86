"""The law of kernels on the device itself: `python -m experiments.speed.compiled_kernels.run` runs these where there is a GPU."""

import jax
import jax.numpy as jnp
import pytest

from tests.laws.test_kernels import SUBJECTS, TOLERANCE, exact, value_and_gradients
from tests.tiny import close

if jax.default_backend() != "gpu":
    pytest.skip("JAX sees no CUDA device", allow_module_level=True)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name,case", SUBJECTS)
def test_the_compiled_kernel_is_the_op(name, case, dtype):
    run, arrays = value_and_gradients(name, case, jnp.dtype(dtype), "pallas")
    with jax.default_device(jax.devices("cpu")[0]):
        wanted = exact(name, case, dtype)
    close(jax.jit(run)(*arrays), wanted, TOLERANCE[dtype])
