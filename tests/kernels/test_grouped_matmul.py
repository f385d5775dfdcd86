"""What the law of kernels does not say of products by groups."""

import jax
import jax.numpy as jnp
import pytest

from effllm import kernels
from tests.tiny import close, random

X, W = random((150, 24), jnp.float32, 0), random((4, 24, 20), jnp.float32, 1)


@pytest.mark.parametrize("implementation", ["xla", "interpret_gpu", "interpret_tpu"])
def test_rows_of_no_group_reach_nothing(implementation):
    """NaN after the groups' rows gives zeros, and zero gradients; sizes are data of one program."""

    @jax.jit
    def run(x, sizes):
        y, back = jax.vjp(lambda x, w: kernels.grouped_matmul(x, w, sizes, implementation=implementation), x, W)
        return y, back(y)

    for sizes in ((70, 0, 11, 60), (0, 0, 3, 0)):
        total = sum(sizes)
        y, (dx, dw) = run(X.at[total:].set(jnp.nan), jnp.array(sizes))
        assert not y[total:].any() and not dx[total:].any()
        expected, gradients = run(X.at[total:].set(0), jnp.array(sizes))
        close((y, dx, dw), (expected, *gradients), 1e-6)


@pytest.mark.parametrize("backend", ["interpret_gpu", "interpret_tpu"])
def test_a_wide_matrix_has_a_wide_gradient(backend):
    """Float32 weights of bfloat16 rows are rounded in the kernel, and their gradient is not."""
    x, sizes = X.astype(jnp.bfloat16), jnp.array([70, 0, 11, 60])

    def gradient(x, implementation):
        return jax.jit(jax.grad(lambda w: kernels.grouped_matmul(x, w, sizes, implementation=implementation).sum()))(W)

    dw = gradient(x, backend)
    assert dw.dtype == jnp.float32
    close(dw, gradient(x.astype(jnp.float32), "reference"), 1e-5)


def test_what_a_kernel_does_not_take_is_named():
    with jax.enable_x64(True), pytest.raises(ValueError, match="not float64; use implementation='xla'"):
        kernels.grouped_matmul(X.astype(jnp.float64), W, jnp.zeros(4, jnp.int32), implementation="pallas")
    with pytest.raises(ValueError, match=r"x \(150, 24\), w \(4, 24, 20\) and sizes \(3,\) are not"):
        kernels.grouped_matmul(X, W, jnp.zeros(3, jnp.int32))
