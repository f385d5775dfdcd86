"""A configuration as JSON, and back to an equal tree."""

import dataclasses
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from effllm.config import names, tree


def to_json(value: Any) -> Any:
    """Plain JSON data of a configuration: objects become {"class": path, field: …}, functions {"function": path}, tuples lists."""
    if tree.is_node(value):
        return {"class": names.path_of(type(value))} | {k: to_json(v) for k, v in tree.fields(value).items()}
    if isinstance(value, (tuple, list)):
        return [to_json(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if callable(value):
        return {"function": names.path_of(value)}
    raise ValueError(f"a config cannot hold {value!r} ({type(value).__name__})")


def from_json(data: Any, own: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The tree that `to_json` wrote; `own` holds classes and functions by paths of the user's.

    Raises ValueError for others outside effllm, flax and optax and for unknown fields.
    """
    if isinstance(data, list):
        return tuple(from_json(v, own) for v in data)
    if not isinstance(data, dict):
        return data
    if "function" in data:
        return own.get(data["function"]) or names.resolve(data["function"])
    path = data.get("class")
    if not isinstance(path, str):
        raise ValueError(f"config.json: an object without a class: {json.dumps(data)[:80]}")
    cls = own.get(path) or names.resolve(path)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ValueError(f"config.json: {path} is not a configuration class")
    known = {f.name for f in dataclasses.fields(cls) if f.init}
    for name in data:
        if name != "class" and name not in known:
            raise ValueError(f"config.json: {path} has no field {name!r}{tree.nearest(name, known)}")
    return cls(**{k: from_json(v, own) for k, v in data.items() if k != "class"})


def named(value: Any) -> dict[str, Any]:
    """Every class and function in a configuration by the path that `to_json` writes."""
    found = [type(v) if tree.is_node(v) else v for v in (value, *(v for _, v in tree.walk(value)))]
    return {names.path_of(v): v for v in found if callable(v)}


def dumps(value: Any) -> str:
    """A configuration as indented JSON text."""
    return json.dumps(to_json(value), indent=1) + "\n"
