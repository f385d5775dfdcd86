"""effllm train"""

import itertools
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from effllm.cli.evaluate import quality_of
from effllm.cli.report import static_cost, write_report
from effllm.cli.restore import initial
from effllm.cli.rundir import locked, provenance, read_json, warn, write_json
from effllm.cli.sample import complete
from effllm.config import Experiment, Program, assemble, load_config, run_directory, write_config
from effllm.config.program import check_devices, check_reference
from effllm.data import Dataset, load_codec, prepare
from effllm.evaluate import Cost, Quality, baselines, peak_memory, utilisation
from effllm.evaluate.report import number
from effllm.infer import Sampler
from effllm.train import Checkpoints, Every, Lines, Outcome, from_items, initialise, items, last_saved, read, run


@click.command("train")
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[PATH=VALUE]...")
@click.option("--run-dir", type=click.Path(), help="Where the run lives; default runs/<config's name and overrides>. An existing run continues.")
@click.option("--init-from", type=click.Path(), help="A run directory whose parameters a new run begins with; effllm convert makes one of pretrained weights.")
@click.option("--distributed", metavar="auto|HOST:PORT,N,I", help="Join other processes: as SLURM, Kubernetes, MPI or a TPU pod says, or as given.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def train_command(config, overrides, run_dir, init_from, distributed, quiet):
    """Train the experiment of the Python file CONFIG, or continue it where it stopped.

    PATH=VALUE replaces a field: model.depth=2, optimizer.learning_rate=1e-3, "model.blocks.0.ffn=MLP(hidden=64)". A value with parentheses stands in
    double quotes, which keep it from the shell. The directory gets config.json, metrics.jsonl (one line every log_every steps), eval.jsonl,
    checkpoints/, result.json and report.html. SIGTERM and Ctrl-C save and stop; a second Ctrl-C aborts at once.

    \b
    "data.curriculum=SequenceWarmup(minimum=32,steps=200)"      short sequences first; also LengthBuckets(shortest=32)
    "data.curriculum=Paced(ByRarity(),Competence())"            easy records first; hardest_first=True is the control
    "data.curriculum=Stages((0.0,0.8),((7,3),(2,8)))"           mixtures by stages, of "data.source=Mixture((TextFiles('a'),TextFiles('b')))"
    "model.blocks.0=RandomLTD(keep=Ramp(0.5,duration=0.7))"     random layerwise token dropping, by a schedule
    "select=TopLoss(keep=0.25)"                                 learn from a quarter of every batch; also RHOLoss, GradientNorm, SoftLoss
    """
    if distributed:
        initialise(distributed)
    train(load_config(config, overrides), Path(run_dir) if run_dir else run_directory(config, overrides), quiet=quiet, init_from=init_from)


def train(experiment: Experiment, directory: Path, quiet: bool = False, init_from: str | None = None) -> dict[str, Any] | None:
    """Train or continue a validated experiment in `directory`. Returns what result.json holds, or None if SIGTERM stopped it before the end.

    SIGINT, which also saves, ends the process with code 130: a script of several runs ends there too.
    """
    began = time.perf_counter()
    first = jax.process_index() == 0
    write_config(directory, experiment, write=False)
    program = assemble(experiment)
    check_devices(experiment, program.mesh)
    dataset = prepare(experiment.data, progress=first and not quiet)
    check_reference(program, dataset.codec)
    init_from = earlier(directory, experiment, dataset.manifest["fingerprint"], init_from).get("init_from", init_from)
    needed = dataset.codec.vocab_size + experiment.objective.extra_tokens
    if needed > experiment.model.vocab_size:
        extra = f" and the objective needs {experiment.objective.extra_tokens} more" if experiment.objective.extra_tokens else ""
        raise ValueError(f"model.vocab_size={experiment.model.vocab_size}, but the tokenizer has {dataset.codec.vocab_size} tokens{extra}; set model.vocab_size to {needed}")
    with locked(directory) if first else nullcontext():
        if first:
            write_config(directory, experiment)
            dataset.codec.save(directory)
            info = describe(program, dataset) | {"init_from": init_from}
            write_json(directory / "run.json", info)
            if not quiet:
                announce(directory, info)
        outcome = _loop(program, dataset, directory, first, quiet, init_from)
        if outcome.stopped:
            if first:
                click.echo(f"stopped by {outcome.stopped} after step {outcome.step}, which is saved; the same command continues")
            if outcome.stopped == "SIGINT":
                sys.exit(130)
            return None
        quality = quality_of(program, dataset, outcome.state.params)
        if not first:
            return None
        result = _result(program, dataset, directory, outcome.state.params, quality, time.perf_counter() - began)
        previous = read_json(directory / "result.json")
        if outcome.start == outcome.step == previous.get("step"):
            result["cost"] = previous["cost"]
        write_json(directory / "result.json", result)
        write_report([directory], directory / "report.html")
    if not quiet:
        conclude(directory, result)
    return result


def earlier(directory: Path, experiment: Experiment, fingerprint: str, init_from: str | None) -> dict[str, Any]:
    """run.json of the run that `directory` continues, {} where it begins. Raises ValueError for a run that cannot continue so."""
    newest, before = last_saved(directory / "checkpoints"), read_json(directory / "run.json")
    if newest is None:  # a run killed before its first checkpoint begins as it was told to, unless it is told anew
        return before if init_from is None else {}
    if experiment.steps < newest:
        raise ValueError(f"steps={experiment.steps}, but {directory} is already trained to step {newest}: set steps to at least {newest}, or use another --run-dir")
    if init_from not in (None, before.get("init_from")):
        began = f"--init-from {before['init_from']}" if before.get("init_from") else "without --init-from"
        raise ValueError(f"--init-from {init_from}: {directory} exists and began {began}; leave the option out, or use another --run-dir")
    if before.get("data", {}).get("fingerprint", fingerprint) != fingerprint:
        raise ValueError(f"the text of data.source changed since {directory} began, so its data order cannot continue: set the text back, or use another --run-dir")
    return before


def doubts(experiment: Experiment) -> list[str]:
    """What is allowed and hardly meant: a learning rate that is 0 all along, or that the end of the run meets in its warm-up."""
    some = jnp.asarray(np.unique(np.linspace(0, experiment.steps - 1, min(experiment.steps, 1000)).astype(np.int32)))
    rates = np.asarray(jax.vmap(lambda step: experiment.optimizer.rate(step, experiment.steps))(some))
    if not rates.any():
        return ["the learning rate is 0 at every step, so nothing is learned: raise optimizer.learning_rate"]
    if rates.argmax() == len(rates) - 1 and rates[-1] > rates[0]:
        return [f"the learning rate still rises at the last of steps={experiment.steps}, to {rates[-1]:.3g}: lower optimizer.schedule.warmup, or raise steps"]
    return []


def describe(program: Program, dataset: Dataset) -> dict[str, Any]:
    """What run.json holds: provenance, data and static cost."""
    splits = dataset.manifest["splits"]
    return provenance() | static_cost(program) | {
        "mesh": ", ".join(f"{k}={v}" for k, v in program.mesh.shape.items()),
        "data": {
            "source": _words(dataset.manifest["source"]),
            "notes": dataset.manifest["notes"],
            "fingerprint": dataset.manifest["fingerprint"],
            "train_documents": splits["train"]["documents"],
            "train_bytes": splits["train"]["bytes"],
            "held_out_documents": splits["held_out"]["documents"],
            "held_out_bytes": splits["held_out"]["bytes"],
        },
    }


def _words(described: dict[str, Any]) -> str:
    name, arguments = described["class"].rpartition(".")[2], (f"{k}={v!r}" for k, v in described.items() if k != "class")
    return f"{name}({', '.join(arguments)})"


def announce(directory: Path, info: dict[str, Any]) -> None:
    """Say what is about to be trained on what."""
    data, cost = info["data"], info["cost"]
    click.echo(f"run    {directory}")
    click.echo(f"data   {'; '.join([data['source'], *data['notes']])}, SHA-256 {data['fingerprint'][:16]}…")
    for split in ("train", "held_out"):
        click.echo(f"       {split:8} {data[f'{split}_documents']:,} documents, {number(data[f'{split}_bytes'], 'B')}")
    click.echo(f"model  {number(cost['parameters'])} parameters, {number(cost['training_flops'], 'FLOP')} a training token")
    click.echo(f"on     {info['hardware']}; mesh {info['mesh']}")


def _loop(program: Program, dataset: Dataset, directory: Path, first: bool, quiet: bool, init_from: str | None) -> Outcome:
    """Restore or initialise, then train; only the first process writes logs."""
    experiment = program.experiment
    checkpoints = Checkpoints(directory / "checkpoints", experiment.keep)
    found = checkpoints.restore(items(program.abstract), warn, put_aside=True)
    if found is None:
        start, state = 0, program.init()
        if init_from is not None:
            state = state.replace(params=initial(init_from, program, dataset.codec))
    else:
        start, state = found[0], from_items(found[1])
    lines, evals = (Lines(directory / "metrics.jsonl"), Lines(directory / "eval.jsonl")) if first else (None, None)
    for file in filter(None, (lines, evals)):
        file.cut(start)

    def evaluate(step, state):
        quality = quality_of(program, dataset, state.params, experiment.eval_batches)
        if evals is not None:
            evals.append({"step": step} | quality.to_json())
            evals.sync()

    for line in doubts(experiment) if first else []:
        warn(line)
    bar = tqdm(total=experiment.steps, initial=start, unit="step", disable=quiet or not first, dynamic_ncols=True, smoothing=0.1, desc="train")

    def show(record):
        bar.set_postfix_str(f"loss {record['loss']:.3f}, {number(record['tokens_per_second'])} tokens/s", refresh=False)
        bar.update(record["step"] - bar.n)

    with program.train_batches(dataset, start) as batches, bar:
        if found is not None:
            batches.check_state(found[2]["data"])
        numbered = zip(itertools.count(start), map(program.place, batches))
        outcome = run(
            state, lambda state, read: program.step(state, read[1], read[0]), numbered, start=start, steps=experiment.steps, log_every=experiment.log_every,
            save_every=experiment.save_every, checkpoints=checkpoints, extra=lambda: {"data": batches.state()}, lines=lines,
            callbacks=(Every(experiment.eval_every, evaluate),), show=show,
        )  # fmt: skip
    for file in filter(None, (lines, evals)):
        file.close()
    checkpoints.close()
    return outcome


def _result(program: Program, dataset: Dataset, directory: Path, params: Any, quality: Quality, seconds: float) -> dict[str, Any]:
    """What result.json holds: quality, baselines, a sample and the measured cost."""
    experiment = program.experiment
    model, length = experiment.model, experiment.data.sequence_length
    speeds = sorted(r["tokens_per_second"] for r in read(directory / "metrics.jsonl"))
    speed = speeds[len(speeds) // 2] if speeds else None
    training_flops = Cost.of(model, program.abstract.params, length).training_flops
    kind = jax.devices()[0].device_kind
    memory, of_what = peak_memory()
    result = {
        "step": experiment.steps,
        "held_out": quality.to_json(),
        "baselines": baselines(dataset) if experiment.objective.likelihood else {},
        "cost": {
            "tokens_per_second": speed,
            "utilisation": utilisation(speed, training_flops, program.mesh.size, kind, model.dtype)[1] if speeds else None,
            "peak_memory": memory,
            "peak_memory_of": of_what,
            "seconds": seconds,
        },
    }
    if jax.process_count() == 1 and model.decodes:
        tokens = min(200, length - len(experiment.prompt.encode()) - 1)
        if tokens > 0:
            local = jax.device_put(params, jax.local_devices()[0])
            sampler = Sampler(temperature=0.8)
            (text,) = complete(model, local, load_codec(directory), [experiment.prompt], tokens, sampler, experiment.seed)
            result["sample"] = {"prompt": experiment.prompt, "text": text, "how": f"Temperature {sampler.temperature}, seed {experiment.seed}."}
    return result


def conclude(directory: Path, result: dict[str, Any]) -> None:
    """Say what came out, beside what simple models make of the same bytes."""
    held = result["held_out"]
    if held["bytes"] is None:
        click.echo(f"held out: loss {held['loss']:.4f} nats a predicted token, perplexity {held['perplexity']:.3f}, {held['tokens']:,} tokens predicted")
    else:
        click.echo(f"held out: loss {held['loss']:.4f} nats a token, perplexity {held['perplexity']:.3f}, {held['bytes']:,.0f} bytes")
        for name, value in sorted({"this model": held["bits_per_byte"], **result["baselines"]}.items(), key=lambda item: item[1]):
            click.echo(f"  {name:12} {value:.3f} bits per byte")
    click.echo(f"in {result['cost']['seconds']:.0f} s; look at {directory / 'report.html'}")
