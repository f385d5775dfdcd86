"""Which classes and functions a command line or a config.json may name."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

ROOTS = ("effllm", "flax", "optax")
ROOMS = ("effllm.nn", "effllm.data", "effllm.data.curriculum", "effllm.train", "effllm.shard", "effllm.config")


@functools.cache
def classes() -> dict[str, type]:
    """The public configuration classes of effllm, by their short name."""
    import dataclasses

    found = {}
    for room in map(importlib.import_module, ROOMS):
        for name in getattr(room, "__all__", dir(room)):
            value = getattr(room, name)
            if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__.startswith("effllm."):
                found[name] = value
    return found


def function(name: str) -> Callable | None:
    """A function of effllm.nn or flax.linen by its short name, or None."""
    for module in map(importlib.import_module, ("effllm.nn", "flax.linen")):
        value = getattr(module, name, None)
        if callable(value) and not isinstance(value, type):
            return value
    return None


def path_of(value: Any) -> str:
    """The shortest public dotted path of a class or function: effllm.nn.Attention, flax.linen.silu. Raises ValueError for a closure."""
    home, name = value.__module__, value.__qualname__
    if "<" in name:
        raise ValueError(f"{home}.{name} is a closure: a config holds module-level functions and frozen dataclasses with __call__")
    for module in (".".join(home.split(".")[:2]), "flax.linen", "optax"):
        if module.split(".")[0] in ROOTS and getattr(importlib.import_module(module), name, None) is value:
            return f"{module}.{name}"
    return f"{home}.{name}"


def resolve(path: str) -> Any:
    """The object at a public dotted path. Raises ValueError outside effllm, flax and optax, or where there is none: loading executes nothing else."""
    module, _, name = path.rpartition(".")
    outside = f"{path} is outside {', '.join(ROOTS)}: a run directory executes nothing; give the config file that made it with --config FILE"
    if module.split(".")[0] not in ROOTS:
        raise ValueError(outside)
    try:
        value = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{path} does not exist in this version of {module.split('.')[0]}") from error
    if isinstance(value, type) and value.__module__.split(".")[0] not in ROOTS:
        raise ValueError(outside)
    if not callable(value):
        raise ValueError(f"{path} is neither a class nor a function")
    return value
