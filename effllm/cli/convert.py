"""effllm convert"""

import json
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
import jax
from tqdm import tqdm

from effllm.cli.restore import experiment_of, on_one_device
from effllm.cli.rundir import read_json, warn
from effllm.config import Experiment, write_config
from effllm.config.program import parameters
from effllm.data import Codec, Data, TokenizerFile, load_codec
from effllm.evaluate.report import number
from effllm.nn import LanguageModel, MaskedLM, NextToken, Objective
from effllm.train import Checkpoints

CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
LONGEST = 1024
ORIGINAL = "transformers"
MASKS = ("[MASK]", "<mask>")


@click.command("convert")
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@click.option("--tokenizer", type=click.Path(), help="A tokenizer.json, where SOURCE is a transformers directory without one.")
@click.option("--end", help="The token that begins and ends a document; default: config.json's bos_token_id and eos_token_id.")
@click.option("--length", type=int, help=f"Tokens of a training record and of a sample's context; default: what the model was made for, at most {LONGEST}.")
@click.option("--config", type=click.Path(), help="The config file that made the run, where its classes are not effllm's.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def convert_command(source, target, tokenizer, end, length, config, quiet, as_json):
    """Turn a transformers directory SOURCE into a run directory TARGET, or a run directory into a transformers directory.

    \b
    effllm convert models/pythia-160m runs/pythia     then: effllm sample runs/pythia --prompt "def "
    effllm convert runs/first models/first            then: AutoModelForCausalLM.from_pretrained("models/first")

    SOURCE holds config.json and safetensors (one file, or several with an index) and tokenizer.json, which comes along. A run gives the
    weights of its newest checkpoint. Tensors pass one at a time, in the dtype of their file.
    """
    began = time.perf_counter()
    source, target = Path(source), Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not empty: give another TARGET")
    found = _json(source / "config.json")
    ours = str(found.get("class", "")).startswith("effllm.")
    if not ours and "model_type" not in found:
        raise ValueError(f"{source}/config.json has neither a model_type, as of transformers, nor the class of an effllm run")
    with tqdm(unit="B", unit_scale=True, disable=quiet, dynamic_ncols=True, desc="convert") as bar:
        result = to_transformers(source, target, config, bar) if ours else to_run(source, target, found, tokenizer, end, length, bar)
    result |= {"source": str(source), "target": str(target), "seconds": round(time.perf_counter() - began, 2)}
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"{target}: {result['family']}, {number(result['parameters'])} parameters, {number(result['bytes'], 'B')}, with its tokenizer")
    if unread := result.get("unread"):
        click.echo(f"unread {', '.join(unread[:6])}{f' and {len(unread) - 6} more' if len(unread) > 6 else ''}: nothing here uses them")
    click.echo(f"next   {result['next']}")


def to_run(source: Path, target: Path, found: dict[str, Any], tokenizer: str | None, end: str | None, length: int | None, bar: tqdm) -> dict[str, Any]:
    """Write the run directory of a transformers directory: config.json, tokenizer.json, a checkpoint of step 0, and transformers' own files beside."""
    from effllm.interop import load
    from effllm.interop.families import TYPES
    from effllm.interop.shards import Shards

    file = Path(tokenizer) if tokenizer else source / "tokenizer.json"
    if not file.is_file():
        raise ValueError(f"{file} does not exist: --tokenizer FILE gives the model's tokenizer.json")
    ends = (end, None) if end else (_end(found, file), _tokens(_json(file)).get(found.get("bos_token_id")))
    codec = TokenizerFile(str(file), *ends).fit(iter(()))
    bar.total = sum(f.stat().st_size for f in source.glob("*.safetensors"))

    def place(path, array):
        bar.update(array.nbytes)
        return jax.device_put(array)

    model, params = load(source, place)
    with Shards(source) as shards:
        unread = sorted(name for name in shards.names if any(fnmatch(name, pattern) for pattern in TYPES[found["model_type"]].IGNORED))
    if codec.vocab_size > model.vocab_size:
        raise ValueError(f"{file} has {codec.vocab_size} tokens, the model {model.vocab_size}: it is another model's tokenizer")
    length = min([LONGEST, *(found[k] for k in CONTEXTS if found.get(k))]) if length is None else length
    model.within_limit(length)
    target.mkdir(parents=True, exist_ok=True)
    kept = target.resolve() / ORIGINAL
    data = Data(tokenizer=TokenizerFile(str(kept / "tokenizer.json"), *ends), sequence_length=length)
    experiment = Experiment(model=model, data=data, objective=_objective(model, file))
    write_config(target, experiment)
    kept.mkdir()
    (kept / "tokenizer.json").write_bytes(file.read_bytes())
    (kept / "config.json").write_bytes((source / "config.json").read_bytes())
    codec.save(target)
    checkpoints = Checkpoints(target / "checkpoints")
    checkpoints.save(0, {"params": params}, {})
    checkpoints.wait()
    checkpoints.close()
    follow = f'effllm sample {target} --prompt "Once"' if model.decodes else f"effllm eval {target}"
    return {"family": found["model_type"], **_size(params), "unread": unread, "next": follow}


def to_transformers(source: Path, target: Path, config: str | None, bar: tqdm) -> dict[str, Any]:
    """Write the transformers directory of a run's newest checkpoint."""
    from effllm.interop import hf

    experiment = experiment_of(str(source), config)
    codec, context = load_codec(source), experiment.data.sequence_length
    family, said = hf.said(experiment.model, context)
    _, params = parameters(source, on_one_device(experiment), warn)
    bar.total = _size(params)["bytes"]
    kept = source / ORIGINAL / "config.json"
    tokens = special_tokens(_json(kept) if kept.is_file() else {}, codec)
    hf.save(experiment.model, params, target, context=context, settings=tokens, wrote=lambda name, nbytes: bar.update(nbytes))
    (target / "tokenizer.json").write_text(json.dumps(codec.library_json(), ensure_ascii=False))
    kind = "AutoModelForCausalLM" if experiment.model.decodes else "AutoModelForMaskedLM"
    return {"family": said["model_type"], **_size(params), "next": f'{kind}.from_pretrained("{target}")'}


def special_tokens(original: dict[str, Any], codec: Codec) -> dict[str, Any]:
    """The special tokens of config.json: those that the original says, with the codec's begin and end; a list of ends that holds the codec's stays one."""
    said = {name: value for name, value in original.items() if name.endswith("_token_id")}
    ends = said.get("eos_token_id")
    several = isinstance(ends, list) and codec.eos in ends
    return said | {"bos_token_id": codec.bos, "eos_token_id": ends if several else codec.eos}


def _size(params: Any) -> dict[str, int]:
    leaves = jax.tree.leaves(params)
    return {"parameters": sum(a.size for a in leaves), "bytes": sum(a.nbytes for a in leaves)}


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file} does not exist: SOURCE is a transformers directory or a run directory, which have one")
    return read_json(file)


def _objective(model: LanguageModel, file: Path) -> Objective:
    """What a converted model goes on learning: an encoder to fill the tokenizer's own mask."""
    if model.decodes:
        return NextToken()
    tokens = _tokens(_json(file))
    mask = next((i for i, token in tokens.items() if token in MASKS), None)
    if mask is None:
        raise ValueError(f"{file} has none of {', '.join(MASKS)}, which an encoder fills: --tokenizer FILE gives the tokenizer that it was trained with")
    return MaskedLM(mask_token=mask, special=(mask,))


def _end(found: dict[str, Any], file: Path) -> str:
    """The token that config.json names as the end, from the tokenizer's vocabulary."""
    ids = found.get("eos_token_id")
    number = ids[0] if isinstance(ids, list) and ids else ids
    tokens = _tokens(_json(file))
    if number not in tokens:
        raise ValueError(f"config.json says eos_token_id={ids}, which {file} has not: --end TOKEN says what begins and ends a document")
    return tokens[number]


def _tokens(said: dict[str, Any]) -> dict[int, str]:
    return {t["id"]: t["content"] for t in said.get("added_tokens", [])} | {i: t for t, i in _vocabulary(said).items()}


def _vocabulary(said: dict[str, Any]) -> dict[str, int]:
    vocabulary = (said.get("model") or {}).get("vocab") or {}
    return vocabulary if isinstance(vocabulary, dict) else {token: i for i, (token, _) in enumerate(vocabulary)}
