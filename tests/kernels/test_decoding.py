"""What the law of kernels does not say of few queries over many keys."""

import re

import jax
import jax.numpy as jnp
import pytest

from effllm import kernels
from effllm.kernels import decoding
from effllm.nn import Attention
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


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_mixer_decodes_through_its_pages(small, backend):
    """A prompt and two tokens of two rows of unequal length, the second of which waits for the first's page."""
    x, positions = random((2, 150, 16), jnp.float32, 0), jnp.arange(150)[None].repeat(2, 0)
    segments = (jnp.arange(150) < jnp.array([[150], [70]])).astype(jnp.int32)

    def run(implementation):
        mixer = Attention(heads=4, kv_heads=2, head_dim=8, pages=16, implementation=implementation)
        params = mixer.init(jax.random.key(0), x, positions=positions, segment_ids=segments)
        state = mixer.apply(params, 2, 160, 16, jnp.float32, method="init_state")
        parts = []
        for part in (slice(0, 148), slice(148, 149), slice(149, 150)):
            y, state = mixer.apply(params, x[:, part], positions=positions[:, part], segment_ids=segments[:, part], state=state)
            parts.append(y)
        return jnp.concatenate(parts, 1)

    close(jax.jit(lambda: run(backend))(), jax.jit(lambda: run(None))(), 2e-5)


def test_pages_are_read_where_they_lie():
    """Nothing as large as what one row holds is made of them; a page that a kernel does not take is named."""

    def attend(page):
        pools = [jnp.zeros((800 // page, page, 2, 16))] * 2
        table = jnp.arange(800 // page)[None].repeat(3, 0)
        where = {"q_order_bt": jnp.full((3, 1), 799), "implementation": "interpret_gpu"}
        return jax.make_jaxpr(lambda q: kernels.paged_attention(q, *pools, table, **where))(jnp.zeros((3, 1, 4, 16)))

    (call,) = (e for e in attend(16).jaxpr.eqns if e.primitive.name == "custom_vjp_call")
    assert max(v.aval.size for e in call.params["call_jaxpr"].eqns for v in e.outvars) < 800 * 2 * 16
    with pytest.raises(ValueError, match="takes pages of 8, 16, 32, … keys, not 20; use implementation='xla'"):
        attend(20)


@pytest.mark.aot
def test_a_tpu_reads_a_cache_where_it_lies(monkeypatch):
    """32,768 tokens of 8 key heads of 128: compiled for a v5e without a copy of them."""
    shapes = (8, 1, 32, 128), (8, 32768, 8, 128), (8, 32768, 8, 128)
    arrays = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in shapes] + [jax.ShapeDtypeStruct((8, 1), jnp.int32)]
    text = tpu_program("v5e:2x2x1", lambda q, k, v, n: kernels.attention(q, k, v, q_order_bt=n, implementation="pallas"), arrays, monkeypatch)
    assert text.count("tpu_custom_call") == 1 and not re.search(r"= bf16\[8,32768,8,128\]\S* (copy|fusion|transpose)\(", text)
