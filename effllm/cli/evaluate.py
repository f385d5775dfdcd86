"""effllm eval"""

import json
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

from effllm.cli.restore import experiment_of
from effllm.cli.rundir import finite, read_json, warn
from effllm.config import Program, assemble
from effllm.config.program import check_devices, parameters
from effllm.data import Dataset, prepare
from effllm.evaluate import Cost, Quality, held_out, inference, peak_memory
from effllm.evaluate.energy import GRID
from effllm.evaluate.report import number


@click.command("eval")
@click.argument("run", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[PATH=VALUE]...")
@click.option("--cost", is_flag=True, help="Also the six cost metrics: parameters, bytes, FLOPs, latency, memory, energy and carbon.")
@click.option("--row-losses", type=click.Path(), help="Write the loss of every training record, in stored order, to this .npy, for Paced(ByScores(FILE)).")
@click.option("--grid", default=GRID, show_default=True, help="Grams of CO2e per kWh of your grid.")
@click.option("--config", type=click.Path(), help="The config file that made the run, where its classes are not effllm's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def eval_command(run, overrides, cost, row_losses, grid, config, as_json):
    """Held-out loss, bits per byte and perplexity of the newest checkpoint of a RUN directory.

    PATH=VALUE may change where it runs (mesh.fsdp=4, data.workers=2), not what was trained.
    """
    experiment = experiment_of(run, config, overrides)
    if cost and not experiment.model.decodes:
        raise ValueError(f"--cost times generation, and {type(experiment.model).__name__} cannot generate; effllm show gives its parameters and FLOPs")
    program = assemble(experiment)
    check_devices(experiment, program.mesh)
    step, params = parameters(run, program, warn)
    dataset = prepare(experiment.data)
    before = read_json(Path(run) / "run.json").get("data", {}).get("fingerprint")
    if before not in (None, dataset.manifest["fingerprint"]):
        warn(f"the text of data.source is not what {run} was trained on: this held-out loss does not compare with the run's own")
    quality = quality_of(program, dataset, params)
    result = {"step": step} | quality.to_json()
    if row_losses:
        with open(row_losses, "wb") as file:
            np.save(file, program.row_losses(dataset, params))
    if cost:
        length = experiment.data.sequence_length
        measured = inference(experiment.model, jax.device_put(params, jax.local_devices()[0]), length, grams_per_kwh=grid)
        memory, of_what = peak_memory()
        result["cost"] = Cost.of(experiment.model, params, length).__dict__ | measured | {"peak_memory": memory, "peak_memory_of": of_what}
    if as_json:
        click.echo(json.dumps(finite(result)))
        return
    if quality.bytes is None:
        click.echo(f"step {step}: loss {quality.loss:.4f} nats a predicted token, perplexity {quality.perplexity:.4f}")
        click.echo(f"over {quality.tokens:,} predicted tokens of the held-out text")
    else:
        click.echo(f"step {step}: loss {quality.loss:.4f} nats a token, {quality.bits_per_byte:.4f} bits per byte, perplexity {quality.perplexity:.4f}")
        click.echo(f"over {quality.tokens:,} tokens, {quality.bytes:,.0f} bytes held out")
    if cost:
        for label, value in cost_table(result["cost"]):
            click.echo(f"  {label:38} {value}")


def quality_of(program: Program, dataset: Dataset, params: Any, limit: int | None = None) -> Quality:
    """The quality of `params` on the held-out split, or on its first `limit` batches."""
    split = dataset.manifest["splits"]["held_out"]
    bytes_per_token = split["bytes"] / split["tokens"] if program.experiment.objective.likelihood else None
    return held_out(program.loss, params, program.held_out_batches(dataset, limit), bytes_per_token)


def cost_table(cost: dict) -> list[tuple[str, str]]:
    """The six metrics of the survey's §2 as (label, figure) rows."""
    half = cost["prefill_tokens"]
    energy, source = cost["energy_joules"], cost["energy_source"]
    return [
        ("parameters", number(cost["parameters"])),
        ("model size", number(cost["bytes"], "B")),
        ("FLOPs, forward, per token", number(cost["forward_flops"], "FLOP")),
        (f"latency, prefill of {half} tokens", f"{1e3 * cost['prefill_seconds']:.2f} ms"),
        ("latency, decoding, per token", f"{1e3 * cost['decode_seconds_per_token']:.3f} ms"),
        (f"peak memory ({cost['peak_memory_of']})", number(cost["peak_memory"], "B")),
        (f"energy, {half} tokens in, {half} out", source if energy is None else f"{energy:.3g} J ({source})"),
        (f"carbon at {cost['grid_grams_per_kwh']:g} g/kWh", source if energy is None else f"{cost['carbon_grams']:.3g} g CO2e"),
    ]
