"""Training runs as columns of numbers."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effllm import flops

KNOWN = ("params", "tokens", "loss", "flops", "unique_tokens", "experts", "bits")
LOW, HIGH = 1.2, 12.0


@dataclass(frozen=True)
class Runs:
    """Columns of equal length, one row a run: params (N), tokens (D, seen in training), loss (nats a token), and whatever else a law asks for.

    names: which run or family of runs a row belongs to (bootstrap by cluster). Raises ValueError naming the column and rows that are not finite,
    or not positive where a quantity must be.
    """

    columns: Mapping[str, np.ndarray]
    names: tuple[str, ...] | None = None

    def __post_init__(self):
        if not self.columns:
            raise ValueError("runs need at least one column")
        columns = {k: np.asarray(v, float) for k, v in self.columns.items()}
        object.__setattr__(self, "columns", columns)
        lengths = {k: v.shape for k, v in columns.items()}
        if len(set(lengths.values())) > 1 or any(len(s) != 1 for s in lengths.values()):
            raise ValueError(f"columns of runs must be one-dimensional and equally long, got {lengths}")
        for name, values in columns.items():
            wrong = ~np.isfinite(values) | ((values <= 0) if name in KNOWN else False)
            if wrong.any():
                rows = ", ".join(str(i + 1) for i in np.flatnonzero(wrong)[:5])
                kind = "is not a number or not finite" if (~np.isfinite(values)).any() else "is zero or negative"
                raise ValueError(f"column {name!r} {kind} in {wrong.sum()} of {len(values)} runs (row {rows}): drop those runs or repair the column")

    @property
    def size(self) -> int:
        """How many runs."""
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.columns:
            raise ValueError(f"the runs have no column {name!r}; they have {', '.join(self.columns)}")
        return self.columns[name]

    @property
    def flops(self) -> np.ndarray:
        """Training FLOPs: the column of that name, else 6·N·D."""
        return self.columns["flops"] if "flops" in self.columns else flops.six_n(self["params"]) * self["tokens"]

    def where(self, keep: np.ndarray) -> "Runs":
        """The runs that a mask or an index array selects."""
        names = None if self.names is None else tuple(np.asarray(self.names, object)[keep])
        return Runs({k: v[keep] for k, v in self.columns.items()}, names)

    def drop_highest(self, count: int, name: str = "loss") -> "Runs":
        """Without the `count` runs of highest loss (Besiroglu et al. leave out five outliers of Hoffmann's)."""
        return self.where(np.sort(np.argsort(self[name], kind="stable")[: self.size - count]))

    def with_column(self, name: str, values: np.ndarray) -> "Runs":
        """With one column more, or another one of that name."""
        return Runs({**self.columns, name: np.broadcast_to(values, (self.size,))}, self.names)


def check_unit(loss: np.ndarray) -> None:
    """Raise ValueError where losses do not have the size of nats a token."""
    if loss.max() < LOW or loss.max() > HIGH:
        what = "bits per byte, or another unit" if loss.max() < LOW else "bits a token (more than any vocabulary's ln V in nats)"
        raise ValueError(
            f"losses of {loss.min():.3g} to {loss.max():.3g} look like {what}: say which they are, unit nats (take them as they are) or bits (× ln 2)")


def read_csv(file: str | Path, columns: Mapping[str, str] | None = None, unit: str | None = None) -> Runs:
    """Runs from a CSV file with a header.

    columns: {our name: the file's name}, such as {"tokens": "D"}; others are taken under their own names where they hold numbers. A column
    named run (or mapped to it) becomes `names`. unit: "nats", "bits" (multiplied by ln 2), or None, which refuses losses whose size does not say.
    Raises ValueError for a file without rows or not in UTF-8, a row of more cells than the header, a missing column (naming those found) and a cell that is
    no number.
    """
    file, columns = Path(file), dict(columns or {})
    with file.open(newline="", encoding="utf-8-sig") as opened:
        try:
            rows = list(csv.DictReader(opened))
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not in UTF-8 ({error.reason} at byte {error.start}): save it as CSV in UTF-8") from None
    if not rows:
        raise ValueError(f"{file} has no runs: it needs a header and a row a run")
    long = [i for i, r in enumerate(rows, start=1) if None in r]
    if long:
        raise ValueError(f"{file} has more cells than its header in row {long[0]}: quote numbers with commas, or repair the row")
    found = list(rows[0])
    mapped = {ours: theirs for ours, theirs in columns.items()} | {n: n for n in found if n not in columns and n not in columns.values()}
    for ours in dict.fromkeys(("params", "tokens", "loss", *columns)):
        if mapped.get(ours) not in found:
            raise ValueError(f"{file} has no column {mapped.get(ours, ours)!r} for {ours}; it has {', '.join(found)}: map one with --column {ours}=NAME")
    names = tuple(r[mapped["run"]] for r in rows) if "run" in mapped else None
    taken = {ours: numbers(file, ours, [r[theirs] for r in rows]) for ours, theirs in mapped.items() if ours != "run"}
    taken = {n: v for n, v in taken.items() if v is not None}
    runs = Runs({n: v for n, v in taken.items() if n in KNOWN or n in columns or np.isfinite(v).all()}, names)
    if unit is None:
        check_unit(runs["loss"])
    return runs.with_column("loss", runs["loss"] * np.log(2.0)) if unit == "bits" else runs


def numbers(file: Path, name: str, cells: Sequence[str]) -> np.ndarray | None:
    """A column's numbers, None for a column of words that no law knows."""
    values = []
    for row, cell in enumerate(cells, start=1):
        try:
            values.append(float(cell) if cell not in ("", None) else np.nan)
        except ValueError:
            if name in KNOWN:
                raise ValueError(f"{file}: column {name!r} has {cell!r} in row {row}, which is no number") from None
            return None
    return np.array(values)
