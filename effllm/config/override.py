"""`path=value` on the command line: replace one field of a configuration."""

import ast
import dataclasses
import typing
from collections.abc import Callable
from typing import Any

from effllm.config import names, tree


def override(root: Any, text: str) -> Any:
    """The tree with one field replaced: model.depth=2, model.blocks.0.mixer.heads=4, model.blocks.0.ffn=MLP(hidden=64).

    Values are Python literals, functions of flax.linen by name, or calls of effllm's classes, checked against the field's type. Raises ValueError
    that names the nearest field or class.
    """
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ValueError(f"{text!r} is not path=value, such as model.depth=2")
    return _replace(root, path.split("."), value, path, "")


def _replace(node: Any, steps: list[str], text: str, path: str, done: str) -> Any:
    name, rest = steps[0], steps[1:]
    here = f"{done}.{name}" if done else name
    if isinstance(node, tuple):
        if not name.isdecimal() or int(name) >= len(node):
            raise ValueError(f"{path}: {done} has {len(node)} elements, counted from 0; there is no {name}")
        new = _replace(node[int(name)], rest, text, path, here) if rest else _parse(text, Any, path)
        return (*node[: int(name)], new, *node[int(name) + 1 :])
    if not tree.is_node(node):
        raise ValueError(f"{path}: {done}={node!r} has no fields")
    known = tree.fields(node)
    if name not in known:
        where = f"{done} ({type(node).__name__})" if done else type(node).__name__
        raise ValueError(f"{path}: {where} has no field {name!r}{tree.nearest(name, known)}")
    hint = tree.hints(type(node))[name]
    new = _replace(known[name], rest, text, path, here) if rest else _parse(text, hint, path)
    if not tree.conforms(new, hint):
        raise ValueError(f"{path}={text}: {type(node).__name__}.{name} is {tree.describe(hint)}")
    return dataclasses.replace(node, **{name: new})


def _parse(text: str, hint: Any, path: str) -> Any:
    if hint is str:
        return text
    try:
        expression = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        if tree.conforms(text, hint):
            return text
        raise ValueError(f"{path}={text}: not a value; {path.rpartition('.')[2]} is {tree.describe(hint)}") from error
    if isinstance(expression, ast.Name) and tree.conforms(expression.id, hint) and hint is not Any:
        return text
    value = _evaluate(expression, path, text, hint)
    if isinstance(value, int) and not isinstance(value, bool) and not tree.conforms("", hint) and _wants_float(hint):
        return float(value)
    return value


def _wants_float(hint: Any) -> bool:
    return tree.conforms(0.5, hint) and hint is not Any


def _evaluate(node: ast.expr, path: str, text: str, hint: Any) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant) and isinstance(node.operand.value, (int, float)):
        return -node.operand.value
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple(_evaluate(e, path, text, Any) for e in node.elts)
    if isinstance(node, ast.Name):
        function = names.function(node.id)
        if function is None:
            wanted = f"; {path.rpartition('.')[2]} is {tree.describe(hint)}" if hint is not Any else ""
            raise ValueError(f"{path}={text}: {node.id!r} is neither a value nor a function of flax.linen{wanted}{_meant(node.id, hint)}")
        return function
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _construct(node, path, text)
    raise ValueError(f"{path}={text}: neither a Python literal nor Class(field=value)")


def _meant(name: str, hint: Any) -> str:
    """ "; did you mean …?" for a class without its parentheses, or one whose instances the field takes."""
    bases = tuple(h for h in (hint, *typing.get_args(hint)) if isinstance(h, type) and h not in (Any, Callable))
    fitting = {n for n, c in names.classes().items() if hint is Any or issubclass(c, bases)}
    if name in fitting:
        return f"; did you mean {name}()?"
    return tree.nearest(name, [f"{n}()" for n in fitting]) if fitting else ""


def _construct(node: ast.Call, path: str, text: str) -> Any:
    known = names.classes()
    if node.func.id not in known:
        raise ValueError(f"{path}={text}: no class {node.func.id!r} in effllm{tree.nearest(node.func.id, known)}")
    cls = known[node.func.id]
    field_names = [f.name for f in tree.arguments(cls)]
    if len(node.args) > len(field_names):
        raise ValueError(f"{path}={text}: {cls.__name__} takes at most {len(field_names)} arguments")
    given = dict(zip(field_names, node.args, strict=False)) | {k.arg: k.value for k in node.keywords}
    for name in given:
        if name not in field_names:
            raise ValueError(f"{path}={text}: {cls.__name__} has no field {name!r}{tree.nearest(str(name), field_names)}")
    declared = tree.hints(cls)
    missing = [f.name for f in tree.arguments(cls) if f.name not in given and _required(f)]
    if missing:
        raise ValueError(f"{path}={text}: {cls.__name__} needs {missing[0]}")
    values = {name: _evaluate(value, path, text, declared[name]) for name, value in given.items()}
    for name, value in values.items():
        if not tree.conforms(value, declared[name]):
            raise ValueError(f"{path}={text}: {cls.__name__}.{name} is {tree.describe(declared[name])}, got {value!r}")
    return cls(**values)


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
