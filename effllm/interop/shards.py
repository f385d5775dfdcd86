"""safetensors files, one or several with an index, read and written one tensor at a time."""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

INDEX = "model.safetensors.index.json"
DTYPES = {
    np.dtype(kind): name for kind, name in (
        (np.float64, "F64"), (np.float32, "F32"), (np.float16, "F16"), (ml_dtypes.bfloat16, "BF16"), (np.int64, "I64"), (np.int32, "I32"),
        (np.int16, "I16"), (np.int8, "I8"), (np.uint8, "U8"), (np.bool_, "BOOL"), (ml_dtypes.float8_e4m3fn, "F8_E4M3"), (ml_dtypes.float8_e5m2, "F8_E5M2"),
    )
}  # fmt: skip
BEFORE = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # as the first BERTs were stored
Plan = list[tuple[str, np.dtype, tuple[int, ...]]]


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file of a transformers directory. Raises ValueError where it is missing or not JSON."""
    if not file.is_file():
        raise ValueError(f"{file} does not exist: a transformers directory has one")
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error})") from error


class Shards:
    """The tensors of a directory, each read when it is asked for. A context manager: the files stay open inside."""

    def __init__(self, directory: Path):
        self.files = _files(directory)
        self.stack = ExitStack()
        self.stored: dict[str, tuple[Path, Any, str]] = {}

    def __enter__(self) -> "Shards":
        from safetensors import SafetensorError, safe_open

        for file in self.files:
            try:
                handle = self.stack.enter_context(safe_open(file, "numpy"))
            except SafetensorError as error:
                raise ValueError(f"{file} is not a whole safetensors file ({error}); copy it again") from error
            self.stored |= {today(name): (file, handle, name) for name in handle.keys()}
        return self

    def __exit__(self, *error) -> None:
        self.stack.close()

    @property
    def names(self) -> set[str]:
        return set(self.stored)

    def read(self, name: str) -> np.ndarray:
        """A tensor in the dtype of the file."""
        file, handle, stored = self.stored[name]
        try:
            return handle.get_tensor(stored)
        except (AttributeError, TypeError) as error:
            raise ValueError(f"{file}: {name} has a dtype that NumPy lacks ({error})") from error


def today(name: str) -> str:
    """The name that transformers gives a tensor today."""
    return next((name.removesuffix(old) + new for old, new in BEFORE.items() if name.endswith(old)), name)


def _files(directory: Path) -> list[Path]:
    index = directory / INDEX
    names = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    for name in names:
        if not (directory / name).is_file():
            raise ValueError(f"{directory / name} does not exist" + (f", though {INDEX} names it" if index.is_file() else ""))
    return [directory / name for name in names]


def write(directory: Path, plan: Plan, tensors: Iterable[np.ndarray], shard_bytes: int) -> None:
    """Write the tensors of a plan, which come one after another, in files of at most `shard_bytes` (one tensor at least), with an index where there are several."""
    shards = _cut(plan, shard_bytes)
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors" for i in range(len(shards))]
    coming = iter(tensors)
    for name, shard in zip(names, shards, strict=True):
        _write_file(directory / name, shard, coming)
    if len(shards) > 1:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor, _, _ in shard}
        (directory / INDEX).write_text(json.dumps({"metadata": {"total_size": sum(map(_nbytes, plan))}, "weight_map": weight_map}, indent=2) + "\n")


def _nbytes(planned: tuple[str, np.dtype, tuple[int, ...]]) -> int:
    _, dtype, shape = planned
    return dtype.itemsize * int(np.prod(shape))


def _cut(plan: Plan, shard_bytes: int) -> list[Plan]:
    shards: list[Plan] = [[]]
    for planned in plan:
        if shards[-1] and sum(map(_nbytes, shards[-1])) + _nbytes(planned) > shard_bytes:
            shards.append([])
        shards[-1].append(planned)
    return shards


def _write_file(file: Path, plan: Plan, coming: Iterator[np.ndarray]) -> None:
    """The format: the header's length in 8 bytes, a JSON header of dtypes, shapes and offsets padded to 8, then the tensors without gaps."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for planned in plan:
        name, dtype, shape = planned
        if dtype not in DTYPES:
            raise ValueError(f"{name} has dtype {dtype}, which safetensors cannot hold")
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [end, end + _nbytes(planned)]}
        end += _nbytes(planned)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, dtype, shape in plan:
            tensor = next(coming)
            assert tensor.dtype == dtype and tensor.shape == shape, name
            out.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
