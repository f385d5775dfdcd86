"""What the law of kernels does not say of products by groups."""

import re

import jax
import jax.numpy as jnp
import pytest

from effllm import kernels
from tests.aot import tpu_program
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


def test_many_rows_a_group_have_high_tiles_on_a_tpu():
    x, w, sizes = random((1200, 16), jnp.float32, 0), random((2, 16, 8), jnp.float32, 1), jnp.array([700, 480])

    def run(implementation):
        y, back = jax.vjp(lambda x, w: kernels.grouped_matmul(x, w, sizes, implementation=implementation), x, w)
        return y, back(jnp.cos(y))

    close(jax.jit(lambda: run("interpret_tpu"))(), jax.jit(lambda: run("reference"))(), 2e-5)


@pytest.mark.aot
def test_a_tpu_multiplies_experts_where_they_lie(monkeypatch):
    """16,384 rows times 8 matrices of 4,096 × 14,336, forward and backward: compiled for a v5e without a copy of them."""
    shapes = [((16384, 4096), jnp.bfloat16), ((8, 4096, 14336), jnp.bfloat16), ((8,), jnp.int32)]

    def run(x, w, sizes):
        y, back = jax.vjp(lambda x, w: kernels.grouped_matmul(x, w, sizes, implementation="pallas"), x, w)
        return y, back(y)

    text = tpu_program("v5e:2x2x1", run, [jax.ShapeDtypeStruct(*s) for s in shapes], monkeypatch)
    assert text.count("tpu_custom_call") == 3 and not re.search(r"= bf16\[8,4096,14336\]\S* (copy|fusion|transpose)\(", text)


def test_what_a_kernel_does_not_take_is_named():
    with jax.enable_x64(True), pytest.raises(ValueError, match="not float64; use implementation='xla'"):
        kernels.grouped_matmul(X.astype(jnp.float64), W, jnp.zeros(4, jnp.int32), implementation="pallas")
    with pytest.raises(ValueError, match=r"x \(150, 24\), w \(4, 24, 20\) and sizes \(3,\) are not"):
        kernels.grouped_matmul(X, W, jnp.zeros(3, jnp.int32))
