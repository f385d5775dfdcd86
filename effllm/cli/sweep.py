"""A sweep of effllm train commands from sizes and tokens."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

import jax

from effllm.config import assemble, load_config

WIDTH_STEP = 16


def sweep(config: str, runs: Sequence[dict[str, float]], file: Path) -> Path:
    """Write a shell script with one `effllm train` a run, the nearest model to each params by width and depth together, steps from tokens. Returns the file."""
    lines = ["#!/bin/sh", "# Sizes are those of the nearest width and depth; a run that was interrupted goes on where it stopped.", "set -e"]
    for run in runs:
        overrides, params, steps = nearest(config, run["params"], run["tokens"])
        lines.append(f"# wanted {run['params']:.4g} parameters and {run['tokens']:.4g} tokens; this has {params:.4g}")
        lines.append(shlex.join(["effllm", "train", config, *overrides, f"steps={steps}"]))
    file.write_text("\n".join(lines) + "\n")
    return file


def nearest(config: str, params: float, tokens: float) -> tuple[list[str], int, int]:
    """(overrides, parameters, steps): the config's own aspect is kept, width a multiple of WIDTH_STEP that its heads divide."""
    base = load_config(config, ())
    model, data = base.model, base.data
    period, aspect = len(model.blocks), model.width / model.depth
    heads = math.lcm(WIDTH_STEP, *(2 * getattr(b.mixer, "heads", 1) for b in model.blocks))
    best = None
    for width in range(heads, 128 * heads, heads):
        depth = period * max(1, round(width / aspect / period))
        overrides = [f"model.width={width}", f"model.depth={depth}"]
        size = count(config, overrides)
        if best is None or abs(math.log(size / params)) < abs(math.log(best[1] / params)):
            best = overrides, size
        if size > params:
            break
    return best[0], best[1], max(1, round(tokens / (data.batch_size * data.sequence_length)))


def count(config: str, overrides: list[str]) -> int:
    """Parameters of the config's model, without making any."""
    program = assemble(load_config(config, overrides))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(program.abstract.params))
