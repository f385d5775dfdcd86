"""The law of ops: every implementation equals the reference, in values and all gradients."""

import functools
import importlib
import inspect
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import ops
from tests.tiny import close

TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 2e-2}


def cases(name, dtype):
    return importlib.import_module(f"tests.cases.{name}").cases(dtype)


def subjects():
    """Every public op with an `implementation` argument; its cases stand in tests/cases/<op>.py, so that an op without any is an error here."""
    for name in ops.__all__:
        op = getattr(ops, name)
        if "implementation" in inspect.signature(op).parameters:
            implementations = sys.modules[op.__module__].IMPLEMENTATIONS
            for case in cases(name, jnp.float32):
                yield from ((name, case, other) for other in implementations if other != "reference")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name,case,implementation", list(subjects()))
def test_implementations_agree(name, case, implementation, dtype):
    with jax.enable_x64(dtype == "float64"):
        function, arrays = cases(name, jnp.dtype(dtype))[case]

        def value_and_gradients(implementation, arrays):
            out, back = jax.vjp(lambda *a: function(*a, implementation), *arrays)
            return out, back(jax.tree.map(lambda o: jnp.asarray(np.cos(np.arange(o.size)).reshape(o.shape), o.dtype), out))

        exact = jax.jit(functools.partial(value_and_gradients, "reference"))(jax.tree.map(lambda a: a.astype("float32" if dtype == "bfloat16" else dtype), arrays))
        ours = jax.jit(lambda arrays: value_and_gradients(implementation, arrays))(arrays)
        assert all(a.dtype == x.dtype for a, x in zip(ours[1], arrays))
        close(ours, exact, TOLERANCE[dtype])


@pytest.mark.parametrize("name", sorted({s[0] for s in subjects()}))
def test_an_unknown_implementation_is_named(name):
    function, arrays = next(iter(cases(name, jnp.float32).values()))
    with pytest.raises(ValueError, match="no implementation 'cuda'.*'reference'"):
        function(*arrays, "cuda")
