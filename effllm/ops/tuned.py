"""The chunks that were quickest, by platform, operation and shape: tuned.json, which `python -m experiments.speed.choices.run --tune` writes."""

import json
import math
from pathlib import Path

import jax

TABLE = json.loads((Path(__file__).parent / "tuned.json").read_text())


def tuned_chunk(operation: str, shape: tuple[int, ...], default: int) -> int:
    """The chunk of `operation` at that measured shape which is nearest to this one, by Σ |log ratio| over the axes, on the platform that JAX runs on
    while it traces; `default` where nothing was measured there. Time depends on it, and rounding."""
    rows = TABLE.get(jax.default_backend(), {}).get(operation)
    if not rows:
        return default
    return min(rows, key=lambda row: sum(abs(math.log(a / b)) for a, b in zip(row["shape"], shape, strict=True)))["chunk"]
