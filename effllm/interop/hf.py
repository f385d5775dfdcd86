"""Directories of Hugging Face transformers: config.json and safetensors, one file or several with an index; a tokenizer.json comes along.

Tensors are read one at a time into the stacked array of their parameter, which goes to its devices as soon as it is whole, and written one at
a time: a model never exists twice in memory. They keep the dtype of the file.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from effllm import weights
from effllm.interop.families import FAMILIES, TYPES, Family
from effllm.interop.layout import Shape, Tensor
from effllm.interop.normal import difference, normal, plain
from effllm.interop.shards import Shards, read_json, write
from effllm.nn import DecoderLM, RoPE, RoPEScaling

Place = Callable[[str, np.ndarray], jax.Array]
SHARD_BYTES = 5 * 2**30


def load(directory: str | Path, place: Place = lambda path, array: jnp.asarray(array)) -> tuple[DecoderLM, Any]:
    """(model, params) of a transformers directory.

    place(path, array) puts a parameter (dotted path, layers stacked) on its devices: `lambda path, a: jax.device_put(a, shardings[path])`.
    Raises ValueError naming an architecture or setting that is not covered, a tensor that is missing, left over, or of another shape.
    """
    directory = Path(directory)
    family, model = _family_and_model(directory)
    with Shards(directory) as shards:
        return model, _read(directory, shards, model, family, place)


def model_of(directory: str | Path) -> DecoderLM:
    """The model of a transformers directory, its weights unread: to say where they shall lie before `load` places them."""
    return _family_and_model(Path(directory))[1]


def _family_and_model(directory: Path) -> tuple[Family, DecoderLM]:
    config = read_json(directory / "config.json")
    if config.get("model_type") not in TYPES:
        raise ValueError(f"{directory}/config.json: model_type={config.get('model_type')!r} is not covered; {', '.join(TYPES)} are")
    family = TYPES[config["model_type"]]
    try:
        model = family.model_of(config)
    except KeyError as error:
        raise ValueError(f"{directory}/config.json lacks {error}") from error
    # Rotary positions that nothing stretches mean little beyond those that were trained; other positions say their own limit, or have none.
    plain_rotary = any(isinstance(position := getattr(block.mixer, "position", None), RoPE) and type(position.scaling) is RoPEScaling for block in model.blocks)
    trained = config.get("max_position_embeddings", config.get("n_positions"))
    return family, model.clone(trained_length=trained if plain_rotary else None)


def save(
    model: DecoderLM,
    params: Any,
    directory: str | Path,
    *,
    context: int,
    tokenizer: str | Path | None = None,
    settings: dict[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
    wrote: Callable[[str, int], None] = lambda name, nbytes: None,
) -> None:
    """Write config.json and safetensors, as transformers reads them; `context` is the longest text that the model is meant for.

    tokenizer: a tokenizer.json to copy along. settings: further keys of config.json (eos_token_id). Files hold up to `shard_bytes`;
    wrote(name, bytes) hears of each tensor. Weights of any kind are written as the dense ones that they
    stand for. Raises ValueError for a model that no family can say, and where the directory holds a model.
    """
    directory = Path(directory)
    if (directory / "config.json").exists():
        raise ValueError(f"{directory} holds a config.json: give another directory")
    family, config = said(model, context)
    leaves = dict(flat(params))
    bundles = list(bundles_of(model, family))
    wanted = {path for bundle in bundles for path in bundle.paths}
    if wanted != set(leaves):
        raise ValueError(f"the parameters are not this model's: {min(wanted ^ set(leaves))} is {'missing' if wanted - set(leaves) else 'left over'}")
    dtypes = {path: np.dtype(jax.eval_shape(weights.materialise, leaf).dtype) for path, leaf in leaves.items()}
    plan = [(name, dtypes[b.paths[0]], b.tensor.layout.shape(b.shapes)) for b in bundles for name in b.names]

    def tensors():
        for bundle in bundles:
            for row, name in enumerate(bundle.names):
                tensor = bundle.tensor.layout.join([_dense(leaves[path], row if bundle.stacked else None) for path in bundle.paths])
                yield tensor
                wrote(name, tensor.nbytes)

    directory.mkdir(parents=True, exist_ok=True)
    write(directory, plan, tensors(), shard_bytes)
    if tokenizer is not None:
        shutil.copy(tokenizer, directory / "tokenizer.json")
    (directory / "config.json").write_text(json.dumps(config | {"dtype": str(plan[0][1])} | (settings or {}), indent=2) + "\n")


def said(model: DecoderLM, context: int) -> tuple[Family, dict[str, Any]]:
    """The first family that can say this model, and its config.json. Raises ValueError where none can, with what the first that has such blocks would change."""
    reason = None
    for family in FAMILIES:
        try:
            config = family.config_of(model, context)
            changed = difference(normal(model), normal(family.model_of(config)))
        except ValueError:
            continue
        if changed is None:
            return family, config
        reason = reason or f"{changed} as in transformers' {config['model_type']}"
    first = model.blocks[0]
    reason = reason or f"no family of transformers covered here has blocks like its {type(first).__name__} of {type(first.mixer).__name__}"
    raise ValueError(f"transformers cannot say this model: {reason}")


class Bundle(NamedTuple):
    """Parameters that lie in the same tensors of theirs: dotted paths and shapes (of one layer where they are stacked), one tensor for each layer."""

    tensor: Tensor
    names: list[str]
    paths: list[str]
    shapes: list[Shape]
    stacked: bool


def flat(params: Any) -> Iterator[tuple[str, Any]]:
    """(dotted path, leaf) of every parameter; a typed weight is one leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda x: isinstance(x, weights.Weight))
    return ((jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves)


def bundles_of(model: DecoderLM, family: Family) -> Iterator[Bundle]:
    """Every parameter of the model with the tensors that it comes from."""
    abstract = meta.unbox(jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))["params"])
    left = {path: leaf.shape for path, leaf in flat(abstract)}
    for tensor in family.TOP:
        if tensor.paths[0] in left:
            yield Bundle(tensor, [tensor.name], list(tensor.paths), [left.pop(path) for path in tensor.paths], False)
    for i, block in enumerate(plain(model.blocks, model.width)):
        for tensor in family.block_tensors(block):
            paths = [f"layers.blocks_{i}.{path}" for path in tensor.paths]
            if paths[0] in left:
                names = [tensor.name.format(layer, half=layer // 2) for layer in range(i, model.depth, len(model.blocks))]
                yield Bundle(tensor, names, paths, [left.pop(path)[1:] for path in paths], True)
    if left:
        raise ValueError(f"{family.__name__} has no tensor for the parameter {min(left)}")


def _dense(leaf: Any, row: int | None) -> np.ndarray:
    return np.asarray(weights.materialise(leaf if row is None else jax.tree.map(lambda a: a[row], leaf)))


def _read(directory: Path, shards: Shards, model: DecoderLM, family: Family, place: Place) -> Any:
    bundles = list(bundles_of(model, family))
    # Some writers leave out the name of the inner model, which then no tensor has.
    bare = family.PREFIX and not any(name.startswith(family.PREFIX) for name in shards.names)
    stored = {name: name.removeprefix(family.PREFIX) if bare else name for bundle in bundles for name in bundle.names}
    heads = {tensor.name for tensor in family.TOP if tensor.paths == ("head.kernel",)} if model.tied else set()  # stored a second time by some
    missing = sorted(set(stored.values()) - shards.names)
    extra = sorted(n for n in shards.names - set(stored.values()) - heads if not any(fnmatch(n, pattern) for pattern in family.IGNORED))
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"holds {extra[0]}, which this architecture has not"
        raise ValueError(f"{directory} {what} ({len(missing)} tensors missing, {len(extra)} left over)")
    params: dict[str, Any] = {}
    for bundle in bundles:
        arrays = _stacked(shards, bundle, [stored[name] for name in bundle.names])
        for path in bundle.paths:
            _put(params, path, place(path, arrays.pop(0)))
    return params


def _stacked(shards: Shards, bundle: Bundle, names: list[str]) -> list[np.ndarray]:
    """The parameters of one bundle, their layers read one after another into place."""
    wholes: list[np.ndarray] = []
    needed = bundle.tensor.layout.shape(bundle.shapes)
    for row, name in enumerate(names):
        tensor = shards.read(name)
        if tensor.shape != needed:
            raise ValueError(f"{name} has shape {tensor.shape}, this architecture needs {needed}")
        parts = bundle.tensor.layout.split(tensor, bundle.shapes)
        if not bundle.stacked:
            return [np.ascontiguousarray(part) for part in parts]
        wholes = wholes or [np.empty((len(names), *shape), tensor.dtype) for shape in bundle.shapes]
        if tensor.dtype != wholes[0].dtype:
            raise ValueError(f"{name} is {tensor.dtype}, the same tensor of the layers before it {wholes[0].dtype}: store all layers alike")
        for whole, part in zip(wholes, parts, strict=True):
            whole[row] = part
    return wholes


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[last] = value
