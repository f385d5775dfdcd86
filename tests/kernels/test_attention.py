"""What the law of kernels does not say of attention's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import kernels, ops
from effllm.nn import Attention
from tests.aot import tpu_program
from tests.tiny import close, random


@pytest.mark.aot
def test_vmem_holds_blocks_at_any_length(monkeypatch):
    """131,072 packed tokens, 8 heads on 2 of keys and values: forward and backward compile for a v5e."""
    arrays = [jax.ShapeDtypeStruct((2, 2**17, heads, 128), jnp.bfloat16) for heads in (8, 2, 2)] + [jax.ShapeDtypeStruct((2, 2**17), jnp.int32)]

    def run(q, k, v, segments):
        attend = jax.vjp(lambda *a: kernels.attention(*a, q_segments_bt=segments, k_segments_bs=segments, implementation="pallas"), q, k, v)
        return attend[0], attend[1](attend[0])

    assert tpu_program("v5e:2x2x1", run, arrays, monkeypatch).count("tpu_custom_call") == 3


def test_what_a_kernel_does_not_take_is_named():
    def attend(width=8, dtype=jnp.float32, **kwargs):
        x = jnp.zeros((1, 4, 2, width), dtype)
        return jax.eval_shape(lambda: kernels.attention(x, x, x, implementation="pallas", **kwargs))

    with pytest.raises(ValueError, match="an ops.HeadBias, not kerple_log_bias; use implementation='xla'"):
        attend(bias=ops.Bias(jnp.ones((2, 2)), ops.kerple_log_bias))
    with pytest.raises(ValueError, match="up to 256; use implementation='xla'"):
        attend(width=320)
    with jax.enable_x64(True), pytest.raises(ValueError, match="not float64; use implementation='xla'"):
        attend(dtype=jnp.float64)


def test_blocks_that_see_nothing_of_each_other_are_not_visited(monkeypatch):
    """A NaN among keys of another document, whole blocks away, reaches nobody."""
    q, k, v = (random((1, 384, 1, 8), jnp.float32, seed) for seed in range(3))
    segments = jnp.asarray(np.repeat([1, 2, 3], 128))[None]
    poisoned = v.at[:, :256].set(jnp.nan)
    o = kernels.attention(q, k, poisoned, q_segments_bt=segments, k_segments_bs=segments, implementation="interpret_gpu")
    assert bool(jnp.isfinite(o[:, 256:]).all()) and not bool(jnp.isfinite(o[:, :256]).any())


def test_the_mixer_takes_the_kernel():
    """Also with sinks and when decoding; half of each row's tokens first, then the rest."""
    x, positions = random((2, 20, 16), jnp.float32, 0), jnp.arange(20)[None].repeat(2, 0)
    segments = jnp.asarray([[1] * 20, [0] * 3 + [1] * 17])

    def run(implementation):
        mixer = Attention(heads=4, kv_heads=2, head_dim=8, sinks=True, implementation=implementation)
        params = mixer.init(jax.random.key(0), x, positions=positions, segment_ids=segments)

        def whole(params):
            return mixer.apply(params, x, positions=positions, segment_ids=segments)[0]

        y, back = jax.vjp(whole, params)
        state = mixer.apply(params, 2, 20, 16, jnp.float32, method="init_state")
        parts = []
        for part in (slice(0, 12), slice(12, 20)):
            part_y, state = mixer.apply(params, x[:, part], positions=positions[:, part], segment_ids=segments[:, part], state=state)
            parts.append(part_y)
        return y, back(jnp.cos(y)), jnp.concatenate(parts, 1)

    close(jax.jit(lambda: run("interpret_gpu"))(), jax.jit(lambda: run(None))(), 2e-5)
