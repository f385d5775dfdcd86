"""The law of ops: every implementation equals the reference, in values and all gradients."""

import inspect
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import ops
from tests.tiny import close

TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 2e-2}


def random(shape, dtype, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def attention_cases(dtype):
    """(function of differentiable arrays and an implementation, those arrays) by name."""
    segments = jnp.array([[1] * 70 + [2] * 190 + [0] * 13, [0] * 3 + [4] * 270], jnp.int32)

    def case(t, s, heads, kv_heads, width, **kwargs):
        arrays = random((2, t, heads, width), dtype, 0), random((2, s, kv_heads, width), dtype, 1), random((2, s, kv_heads, width + 3), dtype, 2)
        return lambda q, k, v, implementation: ops.attention(q, k, v, implementation=implementation, **kwargs), arrays

    return {
        "causal, T no multiple of the block": case(273, 273, 4, 4, 16),
        "grouped 8:1, packed, padded": case(273, 273, 8, 1, 12, q_segments_bt=segments, k_segments_bs=segments),
        "bidirectional, soft cap": case(150, 70, 2, 2, 8, causal=False, soft_cap=5.0),
        "window, packed, padded": case(273, 273, 4, 2, 8, q_segments_bt=segments, k_segments_bs=segments, window=70),
        "window on both sides": case(200, 150, 2, 2, 8, causal=False, window=20),
        "keys in another order": case(40, 150, 2, 2, 8, q_order_bt=jnp.arange(100, 140)[None], k_order_bs=jnp.arange(150)[None, ::-1] % 150, window=33),
        "decoding": case(1, 40, 4, 2, 8, q_order_bt=jnp.array([[39], [17]])),
        "prefill of a state": case(140, 200, 4, 2, 8, q_order_bt=jnp.arange(140)[None] + jnp.array([[3], [60]]), scale=0.2),
    }


def linear_cross_entropy_cases(dtype):
    labels, weights = jnp.arange(77) % 50, jnp.asarray(np.arange(77) % 3, jnp.float32)

    def case(**kwargs):
        def function(x, w, b, implementation):
            return ops.linear_cross_entropy(x, w, labels, weights, bias_v=b, implementation=implementation, **kwargs)[0] / 77

        return function, (random((77, 24), dtype, 0), random((24, 50), dtype, 1), random((50,), dtype, 2))

    return {"chunks of 8": case(chunk=8), "one chunk, z-loss": case(z_loss=0.1), "chunks, soft cap, z-loss": case(chunk=30, soft_cap=3.0, z_loss=0.1)}


def subjects():
    """Every public op with an `implementation` argument; its cases stand in this file, so that an op without any is an error here."""
    for name in ops.__all__:
        op = getattr(ops, name)
        if "implementation" in inspect.signature(op).parameters:
            implementations = sys.modules[op.__module__].IMPLEMENTATIONS
            for case in globals()[f"{name}_cases"](jnp.float32):
                yield from ((name, case, other) for other in implementations if other != "reference")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name,case,implementation", list(subjects()))
def test_implementations_agree(name, case, implementation, dtype):
    with jax.enable_x64(dtype == "float64"):
        function, arrays = globals()[f"{name}_cases"](jnp.dtype(dtype))[case]

        def value_and_gradients(implementation, arrays):
            out, back = jax.vjp(lambda *a: function(*a, implementation), *arrays)
            return out, back(jnp.asarray(np.cos(np.arange(out.size)).reshape(out.shape), out.dtype))

        exact = value_and_gradients("reference", jax.tree.map(lambda a: a.astype("float32" if dtype == "bfloat16" else dtype), arrays))
        ours = jax.jit(lambda arrays: value_and_gradients(implementation, arrays))(arrays)
        assert all(a.dtype == x.dtype for a, x in zip(ours[1], arrays))
        close(ours, exact, TOLERANCE[dtype])


@pytest.mark.parametrize("name", sorted({s[0] for s in subjects()}))
def test_an_unknown_implementation_is_named(name):
    function, arrays = next(iter(globals()[f"{name}_cases"](jnp.float32).values()))
    with pytest.raises(ValueError, match="no implementation 'cuda'.*'reference'"):
        function(*arrays, "cuda")
