"""The one module that owns a dense weight."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import weights
from effllm.nn.init import Fill, FanIn, Initializer
from effllm.shard import Named, axis_size, named


def parameter(module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> Any:
    """A float32 parameter with logical axis names; one that exists is read as it is, typed leaf or array, and its shape checked."""
    if not module.has_variable("params", name):
        return module.param(name, named(init, *axes), shape, jnp.float32)
    value = module.get_variable("params", name)
    if isinstance(value, Named):  # a module that is called twice while it is initialised
        value = value.unbox()
    if tuple(value.shape) != shape:
        raise ValueError(f"parameter {'.'.join((*module.path, name))} has shape {tuple(value.shape)}, the model needs {shape}")
    return value


def wide_parameter(module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> jax.Array:
    """A parameter in at least float32, whatever it is stored in: logs and rates, and parts of complex numbers, of which there are no smaller."""
    value = parameter(module, name, init, shape, axes)
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


class Linear(nn.Module):
    """y = x·W + b with W (d_in, features), whatever W is made of (see effllm.weights).

    `axes` are the logical names of (d_in, d_out). `wide` gives y in at least float32, whatever x is in. Leading axes are flattened to one for the
    product: on a CPU that runs twice as fast. Where the mesh shards time they stay, since flattening would then gather it.
    """

    features: int
    axes: tuple[str | None, str | None] = (None, None)
    bias: bool = False
    init: Initializer = FanIn()
    wide: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = parameter(self, "kernel", self.init, (x.shape[-1], self.features), self.axes)
        if x.ndim > 2 and axis_size("length") > 1:
            y = weights.matmul(x, weights.materialise(kernel), self.wide)
        else:
            y = weights.matmul(x.reshape(-1, x.shape[-1]), kernel, self.wide).reshape(*x.shape[:-1], self.features)
        if self.bias:
            y = y + parameter(self, "bias", Fill(0.0), (self.features,), self.axes[1:]).astype(y.dtype)
        return y


class Kernel(nn.Module):
    """W (d_in, features) itself, materialised, for a product that is no x·W."""

    d_in: int
    features: int
    axes: tuple[str | None, str | None] = (None, None)
    init: Initializer = FanIn()

    @nn.compact
    def __call__(self, dtype: Any) -> jax.Array:
        return weights.materialise(parameter(self, "kernel", self.init, (self.d_in, self.features), self.axes)).astype(dtype)
