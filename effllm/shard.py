"""The mesh, the axis rules, and `shard(x, *names)`.

Arrays are described by logical names; `RULES` maps each name to mesh axes. A name that no rule knows raises:
Flax's own logical constraint silently does nothing under several common set-ups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import struct
from flax.core import meta
from jax.sharding import AxisType, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

RULES: Mapping[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),  # rows of activations
    "length": (),  # time
    "features": (),  # the width of activations
    "width": ("fsdp",),  # the width of parameters: fully sharded data parallelism
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "hidden": ("tensor",),
    "vocab": ("tensor",),
    "layers": (),
}


@dataclass(frozen=True)
class MeshShape:
    """Devices along each mesh axis; `data=None` takes all devices that the other axes leave."""

    data: int | None = None
    fsdp: int = 1
    tensor: int = 1

    def build(self, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
        """The mesh over `devices` (default: all). Raises ValueError when there are too few, or some would idle that `data` does not leave out.

        With several processes none may idle.
        """
        devices = jax.devices() if devices is None else list(devices)
        rest = self.fsdp * self.tensor
        data = max(1, len(devices) // max(1, rest)) if self.data is None else self.data
        shape = (data, self.fsdp, self.tensor)
        if min(shape) < 1:
            raise ValueError(f"mesh axes must be at least 1, got data={self.data}, fsdp={self.fsdp}, tensor={self.tensor}")
        if self.data is None and rest < len(devices) and len(devices) % rest:
            raise ValueError(
                f"mesh fsdp={self.fsdp} × tensor={self.tensor} does not divide the {len(devices)} devices here, so {len(devices) % rest} would idle; "
                f"choose axes that do, or give mesh.data={data} to leave them idle"
            )
        size = int(np.prod(shape))
        if size > len(devices):
            raise ValueError(
                f"mesh data={data} × fsdp={self.fsdp} × tensor={self.tensor} needs {size} devices, here are {len(devices)}; "
                f"lower an axis, or simulate them on a CPU with XLA_FLAGS=--xla_force_host_platform_device_count={size}"
            )
        if size < len(devices) and jax.process_count() > 1:
            raise ValueError(
                f"mesh data={data} × fsdp={self.fsdp} × tensor={self.tensor} uses {size} of {len(devices)} devices; "
                "with several processes it must use all: leave mesh.data out"
            )
        return jax.sharding.Mesh(np.array(devices[:size]).reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def spec(*names: str | None) -> PartitionSpec:
    """The PartitionSpec of an array whose axes bear these logical names; None is an unsharded axis."""
    unknown = [n for n in names if n is not None and n not in RULES]
    if unknown:
        raise ValueError(f"no sharding rule for axis name {unknown[0]!r}; known: {', '.join(RULES)}")
    return PartitionSpec(*(RULES[n] or None if n is not None else None for n in names))


def axis_size(name: str, mesh: Any = None) -> int:
    """Into how many parts the current mesh (or `mesh`) cuts the logical axis `name`; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    return int(np.prod([dict(mesh.shape).get(axis, 1) for axis in RULES[name]], dtype=int))


def fits(name: str, size: int) -> str | None:
    """`name` if the mesh cuts `size` things evenly along it, else None: replicated (for key/value heads fewer than devices)."""
    return name if size % axis_size(name) == 0 else None


def shard(x: jax.Array, *names: str | None) -> jax.Array:
    """Constrain `x` (…one name an axis) to the sharding that the rules give under the current `jax.set_mesh`; identity without one."""
    pspec = spec(*names)
    if len(names) != x.ndim:
        raise ValueError(f"shard got {len(names)} names {names} for an array of shape {x.shape}")
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, pspec)


class Named(struct.PyTreeNode, meta.AxisMetadata):
    """A parameter with its logical axis names, as `init` returns it; `unbox` gives the plain value."""

    value: Any
    names: tuple[str | None, ...] = struct.field(pytree_node=False)

    def unbox(self):
        return self.value

    def replace_boxed(self, val):
        return self.replace(value=val)

    def add_axis(self, index, params):
        names = list(self.names)
        names.insert(index, params["partition_name"])
        return self.replace(names=tuple(names))

    def remove_axis(self, index, params):
        names = list(self.names)
        del names[index]
        return self.replace(names=tuple(names))


def named(init, *names: str | None):
    """An initialiser whose parameter carries `names`."""
    return lambda key, shape, dtype: Named(init(key, shape, dtype), names)


def shardings(params: Any, mesh: jax.sharding.Mesh) -> Any:
    """NamedShardings for a tree of `Named` parameters (or their shapes). Raises ValueError where the mesh does not divide one."""

    def one(path, leaf):
        if not isinstance(leaf, Named):
            return NamedSharding(mesh, PartitionSpec())
        if not jax.tree.leaves(leaf.value):  # optax.masked leaves an empty node where it has no state
            return leaf.value
        for size, name in zip(leaf.value.shape, leaf.names, strict=True):
            if name is not None and size % axis_size(name, mesh):
                raise ValueError(
                    f"parameter {jax.tree_util.keystr(path, simple=True, separator='.')} has {name}={size}, "
                    f"not divisible by mesh.{'×'.join(RULES[name])}={axis_size(name, mesh)}"
                )
        return NamedSharding(mesh, spec(*leaf.names))

    return jax.tree_util.tree_map_with_path(one, params, is_leaf=lambda x: isinstance(x, Named))
