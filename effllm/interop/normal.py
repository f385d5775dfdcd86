"""Models in one canonical form, to say whether two of them compute the same function of the same parameters."""

import dataclasses
from typing import Any

from flax import linen as nn

from effllm.nn import Attention, Fill, FanIn, Normal

TRAINING = ("dropout", "remat", "unroll", "implementation", "dtype", "trained_length", "resample", "pages")


def shortest(blocks: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shortest pattern that repeats to `blocks`."""
    period = next(p for p in range(1, len(blocks) + 1) if len(blocks) % p == 0 and blocks == blocks[:p] * (len(blocks) // p))
    return blocks[:period]


def normal(model: Any) -> Any:
    """The model with sizes said outright, the fields that only training or speed reads at their defaults, and every block written out."""
    model = plain(model, model.width)
    return model.clone(blocks=model.blocks * model.periods)


def plain(value: Any, width: int) -> Any:
    """A tree with sizes said outright and the fields that only training or speed reads at their defaults."""
    if isinstance(value, tuple):
        return tuple(plain(v, width) for v in value)
    if not isinstance(value, nn.Module):
        return value
    changes = {}
    for field in dataclasses.fields(value):
        if field.name in ("parent", "name"):
            continue
        now = getattr(value, field.name)
        default = field.name in TRAINING or isinstance(now, (Normal, FanIn, Fill))
        changes[field.name] = field.default if default else plain(now, width)
    if isinstance(value, Attention):
        changes["kv_heads"], changes["head_dim"] = value.dims(width)
    if hasattr(value, "width_for"):
        changes["hidden"] = value.width_for(width)
    if hasattr(value, "rank_for"):
        changes["rank"] = value.rank_for(width)
    return type(value)(**changes)


def difference(a: Any, b: Any, path: str = "") -> str | None:
    """The first field in which two trees differ, as "path is x, not y"; None where they are equal."""
    if a == b:
        return None
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        pairs = {str(i): pair for i, pair in enumerate(zip(a, b))}
    elif type(a) is type(b) and dataclasses.is_dataclass(a):
        pairs = {f.name: (getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a) if f.name not in ("parent", "name")}
    else:
        return f"{path} is {_short(a)}, not {_short(b)}"
    return next(found for name, (x, y) in pairs.items() if (found := difference(x, y, f"{path}.{name}".lstrip("."))))


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{len(value)} of them"
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    return type(value).__name__ if dataclasses.is_dataclass(value) else repr(value)
