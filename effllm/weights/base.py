"""The contract of a kernel: a plain (…layers, d_in, d_out) array, or a `Weight` that stands for one."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec


class Weight(abc.ABC):
    """A kernel that is not a plain array: low-rank, quantised, masked, factorised, …

    A subclass is a pytree (`flax.struct.dataclass`) whose every array carries the leading layer axes of the kernel, so that
    it passes through scan and remat; what does not vary by layer is a static field.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(…layers, d_in, d_out) of the kernel that this stands for."""

    @abc.abstractmethod
    def matmul(self, x_nd: jax.Array) -> jax.Array:
        """x (N, d_in) times the kernel (d_in, d_out), in x's dtype."""

    @abc.abstractmethod
    def materialise(self) -> jax.Array:
        """The kernel as one array (…layers, d_in, d_out)."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that make up this weight."""
        return sum(a.nbytes for a in jax.tree.leaves(self))

    @abc.abstractmethod
    def spec(self, kernel_spec: PartitionSpec) -> Any:
        """PartitionSpecs of this weight's arrays, as the same pytree, given that of the dense kernel."""


def matmul(x_nd: jax.Array, kernel: jax.Array | Weight, wide: bool = False) -> jax.Array:
    """x (N, d_in) times a kernel (d_in, d_out) of any kind, in x's dtype, or `wide`, in at least float32: sums of products are then not rounded."""
    dtype = jnp.promote_types(x_nd.dtype, jnp.float32) if wide else x_nd.dtype
    if isinstance(kernel, Weight):
        return kernel.matmul(x_nd.astype(dtype))
    return jnp.dot(x_nd, kernel.astype(x_nd.dtype), preferred_element_type=dtype)


def materialise(kernel: jax.Array | Weight) -> jax.Array:
    """The dense array that a kernel of any kind stands for."""
    return kernel.materialise() if isinstance(kernel, Weight) else kernel


def nbytes(params: Any) -> int:
    """Bytes of all arrays in a tree of parameters, typed or plain."""
    return sum(a.nbytes for a in jax.tree.leaves(params))


def spec(kernel: jax.Array | Weight, kernel_spec: PartitionSpec) -> Any:
    """How to shard a kernel of any kind, given the PartitionSpec of the dense one."""
    return kernel.spec(kernel_spec) if isinstance(kernel, Weight) else kernel_spec
