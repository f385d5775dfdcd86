"""effllm report"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from effllm import flops
from effllm.cli.convert import ORIGINAL
from effllm.cli.restore import on_one_device
from effllm.cli.rundir import read_json
from effllm.config import Program, read_config
from effllm.evaluate import Cost, RunRecord, render, state_bytes
from effllm.train import read


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@click.option("--out", type=click.Path(), help="The page to write; default report.html in the one run, or in the folder that holds the first of several.")
def report_command(runs, out):
    """One self-contained HTML page for one RUN directory, or for several on the same axes."""
    folders = [Path(r) for r in runs]
    default = folders[0] if len(folders) == 1 else folders[0].parent
    file = Path(out) if out else default / "report.html"
    write_report(folders, file)
    click.echo(file)


def write_report(folders: Sequence[Path], file: Path) -> None:
    """Render the run directories `folders` into `file`. Raises ValueError for a folder that is not one."""
    file.write_text(render([record(f) for f in folders]))


def record(folder: Path) -> RunRecord:
    """What a run directory holds, as plain data."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a run directory: it has no config.json")
    jsons = {name: read_json(folder / f"{name}.json") for name in ("config", "result", "run")}
    metrics, evals = read(folder / "metrics.jsonl"), read(folder / "eval.jsonl")
    return RunRecord(folder.resolve().name, jsons["config"], metrics, evals, jsons["result"], jsons["run"] or converted(folder))


def converted(folder: Path) -> dict[str, Any]:
    """What is known of a directory that effllm convert made, in the words of run.json; {} for any other."""
    original = read_json(folder / ORIGINAL / "config.json")
    return {"converted": f"{original['model_type']} of transformers"} | static_cost(on_one_device(read_config(folder))) if original else {}


def static_cost(program: Program) -> dict[str, Any]:
    """The part of run.json that the model alone determines."""
    model, length = program.experiment.model, program.experiment.data.sequence_length
    return {"formula": flops.FORMULA, "cost": Cost.of(model, program.abstract.params, length).__dict__ | {"state_bytes": state_bytes(model, length)}}
