"""effllm sample"""

import json
from collections.abc import Sequence
from typing import Any

import click
import jax

from effllm.cli.restore import experiment_of, on_one_device
from effllm.cli.rundir import warn
from effllm.config.program import check_devices, parameters
from effllm.data import Codec, load_codec
from effllm.infer import Sampler, generate, pad_prompts
from effllm.nn import DecoderLM

TOKENS = 200


@click.command("sample")
@click.argument("run", type=click.Path())
@click.option("--prompt", "prompts", multiple=True, required=True, help="What to go on from; give it several times for a batch.")
@click.option("--tokens", type=int, help=f"New tokens at most, default {TOKENS} or what the context holds; a prompt ends early at the end-of-document token.")
@click.option("--temperature", default=1.0, show_default=True, help="0 takes the likeliest token.")
@click.option("--top-k", type=int, help="Draw among the k likeliest tokens.")
@click.option("--top-p", type=float, help="Draw among the likeliest tokens that hold this probability.")
@click.option("--seed", default=0, show_default=True)
@click.option("--context", type=int, help="Positions in all; default: the length that the run was trained on.")
@click.option("--config", type=click.Path(), help="The config file that made the run, where its classes are not effllm's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sample_command(run, prompts, tokens, temperature, top_k, top_p, seed, context, config, as_json):
    """Let the model of a RUN directory go on from one or more prompts."""
    sampler = Sampler(temperature, top_k, top_p)
    experiment = experiment_of(run, config)
    if not experiment.model.decodes:
        raise ValueError(f"{run} holds an {type(experiment.model).__name__}, which sees both sides of a token and cannot generate; sample a DecoderLM")
    program = on_one_device(experiment)
    check_devices(experiment, program.mesh)
    codec = load_codec(run)
    context = experiment.data.sequence_length if context is None else context
    longest = max(len(codec.encode(p.encode())) + 1 for p in prompts)
    if longest >= context:
        raise ValueError(f"the prompt has {longest} tokens (its start included), the context holds {context}: shorten it, to leave room for what follows")
    tokens = min(TOKENS, context - longest) if tokens is None else tokens
    if tokens < 1 or longest + tokens > context:
        raise ValueError(f"--tokens {tokens} must be 1 to {context - longest}: the prompt has {longest} tokens of a context of {context} (see --context)")
    step, params = parameters(run, program, warn)
    texts = complete(experiment.model, params, codec, prompts, tokens, sampler, seed)
    if as_json:
        click.echo(json.dumps({"step": step, "samples": [{"prompt": p, "text": t} for p, t in zip(prompts, texts, strict=True)]}))
        return
    for prompt, text in zip(prompts, texts, strict=True):
        click.echo(click.style(prompt, bold=True) + text)


def complete(model: DecoderLM, params: Any, codec: Codec, prompts: Sequence[str], tokens: int, sampler: Sampler, seed: int) -> list[str]:
    """What the model writes after each prompt, up to `tokens` tokens or the end of the document."""
    ids = [[codec.bos, *codec.encode(p.encode()).tolist()] for p in prompts]
    new_bn, counts_b = generate(model, params, *pad_prompts(ids), jax.random.key(seed), tokens=tokens, sampler=sampler, end=codec.eos)
    return [codec.decode(row[:n]) for row, n in zip(jax.device_get(new_bn), jax.device_get(counts_b), strict=True)]
