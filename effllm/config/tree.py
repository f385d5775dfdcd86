"""Walking a configuration: a tree of frozen dataclasses, unbound Linen modules, tuples and plain values."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flax import linen as nn


def arguments(cls: type) -> list[dataclasses.Field]:
    """The constructor arguments of a dataclass or module class, in order."""
    hidden = ("parent", "name") if issubclass(cls, nn.Module) else ()
    return [f for f in dataclasses.fields(cls) if f.init and f.name not in hidden]


def fields(node: Any) -> dict[str, Any]:
    """The constructor arguments of a dataclass or an unbound module, by name."""
    return {f.name: getattr(node, f.name) for f in arguments(type(node))}


def is_node(value: Any) -> bool:
    """Whether `value` has fields of its own."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def hints(cls: type) -> dict[str, Any]:
    """The declared type of every field of a dataclass or module class."""
    return typing.get_type_hints(cls)


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean …?" where something known is close, else what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; there are {', '.join(known)}"


def conforms(value: Any, hint: Any) -> bool:
    """Whether `value` is of the declared type: classes, unions, Literal, tuple[…], Callable; an int passes for a float, a bool for no number."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if hint is None or hint is types.NoneType:
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(conforms(value, a) for a in args)
    if origin is typing.Literal:
        return any(value == a and type(value) is type(a) for a in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(conforms(v, args[0]) for v in value)
        return len(value) == len(args) and all(conforms(v, a) for v, a in zip(value, args, strict=True))
    if hint is Callable or origin is Callable:
        return callable(value) and not isinstance(value, type)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def describe(hint: Any) -> str:
    """A declared type in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    if origin is typing.Literal:
        return " or ".join(repr(a) for a in args)
    if origin is tuple:
        return f"a tuple of {describe(args[0])}" if len(args) == 2 and args[1] is Ellipsis else f"a tuple of {len(args)}"
    if hint is Callable or origin is Callable:
        return "a function"
    if hint is None or hint is types.NoneType:
        return "None"
    return getattr(hint, "__name__", str(hint))


def check(node: Any, path: str = "") -> None:
    """Raise ValueError at the first field, anywhere in the tree, whose value is not of its declared type (Linen itself takes any)."""
    if isinstance(node, tuple):
        for i, value in enumerate(node):
            check(value, f"{path}.{i}")
    elif is_node(node):
        declared = hints(type(node))
        for name, value in fields(node).items():
            here = f"{path}.{name}" if path else name
            if not conforms(value, declared[name]):
                raise ValueError(f"{here}={value!r}: {type(node).__name__}.{name} is {describe(declared[name])}")
            check(value, here)


def walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every field and element in the tree."""
    below = enumerate(node) if isinstance(node, tuple) else fields(node).items() if is_node(node) else ()
    for name, value in below:
        here = f"{path}.{name}" if path else str(name)
        yield here, value
        yield from walk(value, here)


def differences(before: Any, after: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(path, before, after) wherever two JSON trees differ."""
    if isinstance(before, dict) and isinstance(after, dict) and before.get("class") == after.get("class"):
        names = [*before, *(n for n in after if n not in before)]
        return [d for n in names for d in differences(before.get(n), after.get(n), f"{path}.{n}" if path else n)]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [d for i, (b, a) in enumerate(zip(before, after, strict=True)) for d in differences(b, a, f"{path}.{i}")]
    return [] if before == after else [(path, before, after)]
