"""Directories of Hugging Face transformers: config.json and safetensors, one file or several with an index; a tokenizer.json comes along.

Tensors are read one at a time into the stacked array of their parameter, which goes to its devices as soon as it is whole: a model never
exists twice in memory. They keep the dtype of the file.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from effllm import weights
from effllm.interop import llama
from effllm.nn import DecoderLM

FAMILIES = {name: llama for name in llama.TYPES}
Place = Callable[[str, np.ndarray], jax.Array]


def load(directory: str | Path, place: Place = lambda path, array: jnp.asarray(array)) -> tuple[DecoderLM, Any]:
    """(model, params) of a transformers directory.

    place(path, array) puts a parameter (dotted path, layers stacked) on its devices: `lambda path, a: jax.device_put(a, shardings[path])`.
    Raises ValueError naming an architecture or setting that is not covered, a tensor that is missing, left over, or of another shape.
    """
    directory = Path(directory)
    config = _json(directory / "config.json")
    if config.get("model_type") not in FAMILIES:
        raise ValueError(f"{directory}/config.json: model_type={config.get('model_type')!r} is not covered; {', '.join(FAMILIES)} are")
    family = FAMILIES[config["model_type"]]
    try:
        model = family.model_of(config)
    except KeyError as error:
        raise ValueError(f"{directory}/config.json lacks {error}") from error
    return model, _read(directory, model, family, place)


def save(model: DecoderLM, params: Any, directory: str | Path, *, context: int, tokenizer: str | Path | None = None) -> None:
    """Write config.json and model.safetensors, as transformers reads them; `context` is the longest text that the model is meant for.

    tokenizer: a tokenizer.json to copy along. Raises ValueError for a model that no family can say, and where the directory holds a model.
    """
    from safetensors.numpy import save_file

    directory = Path(directory)
    if (directory / "config.json").exists():
        raise ValueError(f"{directory} holds a config.json: give another directory")
    config = llama.config_of(model, context)
    expected = dict(_expected(model, FAMILIES[config["model_type"]]))
    tensors = {}
    for path, kernel in _flat(params):
        whole = weights.materialise(kernel)
        for name, row in expected[path][1]:
            one = np.asarray(whole if row is None else whole[row])
            tensors[name] = np.ascontiguousarray(one.T) if path.endswith(".kernel") else one
    dtype = next(iter(tensors.values())).dtype
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config | {"dtype": str(dtype)}, indent=2) + "\n")
    if tokenizer is not None:
        shutil.copy(tokenizer, directory / "tokenizer.json")


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file} does not exist: a transformers directory has one")
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error})") from error


def _flat(params: Any) -> Iterator[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda x: isinstance(x, weights.Weight))
    return ((jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves)


def _expected(model: DecoderLM, family: Any) -> Iterator[tuple[str, tuple[tuple[int, ...], list[tuple[str, int | None]]]]]:
    """(our path, (shape, [(their tensor, row of the stacked layers or None)])) of every parameter of the model."""
    shapes = meta.unbox(jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))["params"])
    for path, leaf in _flat(shapes):
        if not path.startswith("layers.blocks_"):
            yield path, (leaf.shape, [(family.TOP[path], None)])
            continue
        _, block, inside = path.split(".", 2)
        first, period = int(block.removeprefix("blocks_")), len(model.blocks)
        yield path, (leaf.shape, [(f"model.layers.{first + row * period}.{family.IN_BLOCK[inside]}", row) for row in range(model.periods)])


def _read(directory: Path, model: DecoderLM, family: Any, place: Place) -> Any:
    from safetensors import safe_open

    with ExitStack() as stack:
        opened: dict[str, Any] = {}
        for file in _files(directory):
            handle = stack.enter_context(safe_open(file, "numpy"))
            opened |= {name: handle for name in handle.keys()}
        expected = list(_expected(model, family))
        wanted = {name for _, (_, sources) in expected for name, _ in sources}
        # A tied head is stored once, but some writers store it again.
        extra = sorted(set(opened) - wanted - ({family.TOP["head.kernel"]} if model.tied else set()))
        missing = sorted(wanted - set(opened))
        if missing or extra:
            what = f"lacks {missing[0]}" if missing else f"holds {extra[0]}, which this architecture has not"
            raise ValueError(f"{directory} {what} ({len(missing)} tensors missing, {len(extra)} left over)")
        params: dict[str, Any] = {}
        for path, (shape, sources) in expected:
            _put(params, path, place(path, _stacked(opened, path, shape, sources)))
        return params


def _files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    names = sorted(set(_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    for name in names:
        if not (directory / name).is_file():
            raise ValueError(f"{directory / name} does not exist" + (f", though {index.name} names it" if index.is_file() else ""))
    return [directory / name for name in names]


def _stacked(opened: dict[str, Any], path: str, shape: tuple[int, ...], sources: list[tuple[str, int | None]]) -> np.ndarray:
    """One parameter, its layers read one after another into place."""
    whole = None
    for name, row in sources:
        tensor = opened[name].get_tensor(name)
        one = tensor.T if path.endswith(".kernel") else tensor
        if one.shape != (shape if row is None else shape[1:]):
            wanted = shape if row is None else shape[1:]
            raise ValueError(f"{name} has shape {tensor.shape}, this architecture needs {wanted[::-1] if path.endswith('.kernel') else wanted}")
        if row is None:
            return np.ascontiguousarray(one)
        whole = np.empty(shape, tensor.dtype) if whole is None else whole
        whole[row] = one
    return whole


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[last] = value
