"""What the law of kernels does not say of few queries over many keys."""

import re

import jax
import jax.numpy as jnp
import pytest

from effllm import kernels
from effllm.kernels import decoding
from tests.aot import tpu_program
from tests.tiny import close, random

BACKENDS = "interpret_gpu", "interpret_tpu"


def cache(batch, length):
    """(2 queries of 4 heads, keys and values of 2) and where the queries stand: at the end."""
    arrays = [random((batch, n, h, 16), jnp.float32, seed) for seed, (n, h) in enumerate(((2, 4), (length, 2), (length, 2)))]
    return arrays, {"q_order_bt": jnp.array([[length - 2, length - 1]])}


@pytest.fixture
def small(monkeypatch):
    """Blocks and programs so few that a program walks over several blocks of a short cache."""
    monkeypatch.setattr(decoding, "PROGRAMS", 6)
    monkeypatch.setattr(decoding, "VMEM", 2**20)


@pytest.mark.parametrize("backend", BACKENDS)
def test_programs_share_the_blocks(small, backend):
    """Shares of unequal size; one row of which the queries see no block, or a single one; segments that are data."""
    arrays, where = cache(1, 700)
    for first in (0, 650, 700):
        where |= {"q_segments_bt": jnp.array([[1, 2]]), "k_segments_bs": 1 + (jnp.arange(700)[None] >= 650) + 8 * (jnp.arange(700)[None] < first)}
        outs = [kernels.attention(*arrays, **where, return_lse=True, implementation=name) for name in (backend, "reference")]
        close(*outs, 2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_that_no_query_sees_are_not_read(small, backend):
    (q, k, v), where = cache(2, 700)
    window = {**where, "window": 30, "implementation": backend}
    poisoned = v.at[:, :512].set(jnp.nan)
    assert bool(jnp.isfinite(kernels.attention(q, k, poisoned, **window)).all())
    close(kernels.attention(q, k, poisoned, **window), kernels.attention(q, k, v, **window), 1e-7)


def test_a_cache_is_read_where_it_lies():
    """Nothing as large as the cache is made of it, though its length is no multiple of a block."""
    arrays, where = cache(2, 700)

    def largest(queries):
        q = jnp.zeros((2, queries, 4, 16))
        order = where["q_order_bt"][:, :1] + jnp.zeros((1, queries), jnp.int32)
        made = jax.make_jaxpr(lambda *a: kernels.attention(*a, q_order_bt=order, implementation="interpret_gpu"))(q, *arrays[1:])
        (call,) = (e for e in made.jaxpr.eqns if e.primitive.name == "custom_vjp_call")
        return max(v.aval.size for e in call.params["call_jaxpr"].eqns for v in e.outvars)

    assert largest(2) < arrays[1].size <= largest(65)  # 64 queries of 2 heads a group fit a tile


@pytest.mark.aot
def test_a_tpu_reads_a_cache_where_it_lies(monkeypatch):
    """32,768 tokens of 8 key heads of 128: compiled for a v5e without a copy of them."""
    shapes = (8, 1, 32, 128), (8, 32768, 8, 128), (8, 32768, 8, 128)
    arrays = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in shapes] + [jax.ShapeDtypeStruct((8, 1), jnp.int32)]
    text = tpu_program("v5e:2x2x1", lambda q, k, v, n: kernels.attention(q, k, v, q_order_bt=n, implementation="pallas"), arrays, monkeypatch)
    assert text.count("tpu_custom_call") == 1 and not re.search(r"= bf16\[8,32768,8,128\]\S* (copy|fusion|transpose)\(", text)
