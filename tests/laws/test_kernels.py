"""The law of kernels: in Pallas's interpreter each equals its op's reference, in values and all gradients; both directions are lowered for CUDA, where Triton's rules
check them, and compiled for GPUs and TPUs where the `aot` extra is installed."""

import contextlib
import functools
import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import kernels, nn, ops
from experiments.speed import ptx
from experiments.speed.kernel_resources import run as kernel_resources
from tests.aot import tpu_program
from tests.tiny import close, inputs

TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2}
GPUS = {"NVIDIA H100 80GB HBM3": 132, "NVIDIA A100-SXM4-40GB": 108}
TPUS = "v5e:2x2x1", "v5p:2x2x1", "v6e:2x2x1"
MIXERS = (
    "Attention", "DeltaNet", "GatedDeltaNet", "GatedLinearAttention", "LightningAttention", "LinearAttention", "Mamba", "Mamba2", "MLSTM", "RandomFeatureAttention",
    "Retention", "RGLRU", "RWKV6TimeMix", "Performer", "CosFormer",
)  # fmt: skip


def cases(name, dtype):
    return importlib.import_module(f"tests.cases.{name}").cases(dtype, getattr(kernels, name))


NAMES = [name for name in kernels.__all__ if hasattr(ops, name)]


def subjects():
    """All cases of each kernel's op, or of an op with many those that its module chooses as KERNELS."""
    for name in NAMES:
        chosen = getattr(importlib.import_module(f"tests.cases.{name}"), "KERNELS", None)
        yield from ((name, case) for case in chosen or cases(name, jnp.float32))


SUBJECTS = list(subjects())


def value_and_gradients(name, case, dtype, implementation):
    """(a function of the case's arrays, those arrays)."""
    function, arrays = cases(name, dtype)[case]

    def run(*arrays):
        out, back = jax.vjp(lambda *a: function(*a, implementation), *arrays)
        return out, back(jax.tree.map(lambda o: jnp.asarray(np.cos(np.arange(o.size)).reshape(o.shape), o.dtype), out))

    return run, arrays


@functools.lru_cache(maxsize=1)
def exact(name, case, dtype):
    """What the reference makes of these arrays in float32."""
    reference, arrays = value_and_gradients(name, case, jnp.dtype(dtype), "reference")
    return jax.jit(reference)(*jax.tree.map(lambda a: a.astype("float32"), arrays))


@pytest.mark.parametrize("dtype,backend", [("float32", "interpret_gpu"), ("float32", "interpret_tpu"), ("bfloat16", "interpret_gpu")])
@pytest.mark.parametrize("name,case", SUBJECTS)
def test_the_interpreted_kernel_is_the_op(name, case, backend, dtype):
    run, arrays = value_and_gradients(name, case, jnp.dtype(dtype), backend)
    ours = jax.jit(run)(*arrays)
    assert all(a.dtype == x.dtype for a, x in zip(ours[1], arrays))
    close(ours, exact(name, case, dtype), TOLERANCE[dtype])


@contextlib.contextmanager
def described(device: str):
    """JAX 0.12 asks which GPU it lowers for; 0.10 does not."""
    if not hasattr(jax.sharding, "AbstractDevice"):
        yield
        return
    from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

    gpu = AbstractDevice(device_kind=device, num_cores=GPUS[device], platform="gpu")
    with use_abstract_mesh(AbstractMesh((1,), ("x",), (AxisType.Auto,), abstract_device=gpu)):
        yield


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize("name,case", SUBJECTS)
def test_the_kernel_is_lowered_for_cuda(name, case, device):
    run, arrays = value_and_gradients(name, case, jnp.bfloat16, "pallas")
    with described(device):
        assert len(ptx.kernels(run, *arrays)) >= 2


@pytest.mark.aot
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name,case", SUBJECTS)
def test_the_kernel_compiles_for_an_h100(name, case, dtype):
    run, arrays = value_and_gradients(name, case, jnp.dtype(dtype), "pallas")
    fits_an_h100(run, *arrays)


@pytest.mark.aot
@pytest.mark.parametrize("name", kernel_resources.NAMES)
def test_the_kernel_compiles_for_an_h100_at_the_shapes_of_benchmarks(name):
    function, shapes = kernel_resources.program(name)
    fits_an_h100(function, *shapes)


def fits_an_h100(function, *arrays):
    pytest.importorskip("triton", reason="pip install -e '.[aot]'")
    with described("NVIDIA H100 80GB HBM3"):
        found = ptx.kernels(function, *arrays)
    assert found and all(ptx.compiled(kernel).shared <= ptx.SHARED[90] for kernel in found)


@pytest.mark.aot
@pytest.mark.parametrize("topology", TPUS)
@pytest.mark.parametrize("name,case", SUBJECTS)
def test_the_kernel_compiles_for_a_tpu(name, case, topology, monkeypatch):
    run, arrays = value_and_gradients(name, case, jnp.bfloat16, "pallas")
    text = tpu_program(topology, run, arrays, monkeypatch)
    assert text.count("tpu_custom_call") >= 2


def test_a_kernel_has_its_op_s_signature():
    for name in NAMES:
        assert inspect.signature(getattr(kernels, name)) == inspect.signature(getattr(ops, name)), name


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_implementation_is_named(name):
    function, arrays = next(iter(cases(name, jnp.float32).values()))
    with pytest.raises(ValueError, match="no implementation 'cuda'.*'pallas'"):
        function(*arrays, "cuda")


def test_the_recurrence_of_complex_numbers_names_the_remedy():
    with pytest.raises(ValueError, match="computes real numbers, these are complex64; use one of .*'blockwise'"):
        kernels.linear_recurrence(jnp.ones(3), jnp.ones((1, 2, 3), jnp.complex64), implementation="pallas")


@pytest.mark.parametrize("op,rest", [(kernels.linear_attention, ()), (kernels.delta_rule, (jnp.ones((1, 4, 2)),))])
def test_heads_that_do_not_fit_are_named(op, rest):
    q, k = jnp.ones((1, 4, 2, 8)), jnp.ones((1, 5, 2, 8))
    with pytest.raises(ValueError, match=r"k has shape \(1, 5, 2, 8\), q \(1, 4, 2, 8\)"):
        op(q, k, q, *rest, implementation="interpret_gpu")


def test_more_than_triton_can_address_is_refused():
    x = jax.ShapeDtypeStruct((2, 2**17, 64, 128), jnp.bfloat16)
    with pytest.raises(ValueError, match=r"2,147,483,648 elements.*2\^31"):
        jax.eval_shape(lambda q, k, v: kernels.linear_attention(q, k, v, implementation="interpret_gpu")[0], x, x, x)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_mixer_takes_its_kernel(mixer):
    x_btd, positions_bt = inputs(1, 8)
    module = getattr(nn, mixer)(implementation="pallas")
    traced = jax.make_jaxpr(lambda key: module.init_with_output(key, x_btd, positions=positions_bt, segment_ids=None)[0][0])(jax.random.key(0))
    assert "pallas_call" in str(traced)
