"""A module in a config is a value: using one object twice must never share parameters."""

import dataclasses
from typing import Any

from flax import linen as nn


def rebuild(value: Any) -> Any:
    """A copy of a module (or a tuple of them) made anew from its fields at every depth, bound to nothing.

    `Module.clone` is shallow: modules in the fields stay the same objects, and would be shared by whoever binds two copies.
    """
    if isinstance(value, tuple):
        return tuple(rebuild(v) for v in value)
    if not isinstance(value, nn.Module):
        return value
    fields = {f.name: rebuild(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name not in ("parent", "name")}
    return type(value)(**fields, parent=None)


def adopt(parent: nn.Module, module: nn.Module, name: str) -> nn.Module:
    """A fresh copy of `module` as `parent`'s submodule `name`."""
    return rebuild(module).clone(parent=parent, name=name)
