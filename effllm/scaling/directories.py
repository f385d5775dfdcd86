"""Runs from the run directories that effllm train writes: their JSON files are read as they are."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from effllm.scaling.runs import Runs


def read_directories(folders: Sequence[str | Path], curves: bool = False) -> Runs:
    """One run a directory: params, tokens, flops and the held-out loss after its last step (result.json).

    curves: instead one row a line of metrics.jsonl, with the training loss there: for the envelope of training curves (approach 1). tokens then counts
    the tokens trained on up to that line; names are the directories, with their paths where two have the same. Raises ValueError naming a directory that is
    not a run, has not finished, or is given twice.
    """
    rows, names, paths = [], [], [Path(f) for f in folders]
    twice = [str(p) for i, p in enumerate(paths) if p.resolve() in {q.resolve() for q in paths[:i]}]
    if twice:
        raise ValueError(f"{twice[0]} is given twice: a run counts once")
    alike = len({p.name for p in paths}) < len(paths)
    for folder in paths:
        cost, lines = description(folder)["cost"], metrics(folder)
        tokens = np.cumsum([r["tokens"] * step for r, step in zip(lines, np.diff([r["step"] for r in lines], prepend=0), strict=True)])
        if curves:
            found = [(t, r["loss"]) for t, r in zip(tokens, lines, strict=True) if r["loss"] is not None]
        else:
            found = [(tokens[-1], held_out(folder))]
        rows += [(cost["parameters"], t, loss, cost["training_flops"] * t) for t, loss in found]
        names += [str(folder) if alike else folder.name] * len(found)
    columns = np.array(rows, float).reshape(-1, 4).T
    return Runs(dict(zip(("params", "tokens", "loss", "flops"), columns, strict=True)), tuple(names))


def description(folder: Path) -> dict:
    """run.json. Raises ValueError for a folder that has none."""
    if not (folder / "run.json").is_file():
        raise ValueError(f"{folder} is not a run directory: it has no run.json")
    return json.loads((folder / "run.json").read_text())


def metrics(folder: Path) -> list[dict]:
    """Whole lines of metrics.jsonl. Raises ValueError where there is none."""
    file = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().split("\n")[:-1] if line] if file.is_file() else []
    if not lines:
        raise ValueError(f"{folder} has no line of metrics yet: let effllm train run first")
    return lines


def held_out(folder: Path) -> float:
    """The final held-out loss. Raises ValueError for a run that has not finished."""
    file = folder / "result.json"
    if not file.is_file():
        raise ValueError(f"{folder} has no result.json, so it has not finished: effllm train continues it, or leave it out")
    return json.loads(file.read_text())["held_out"]["loss"]
