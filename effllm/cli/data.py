"""effllm data"""

import functools
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from effllm.config import override
from effllm.data import filters as rules
from effllm.data.dedup.keyed import Keyed
from effllm.data.filters import Filter
from effllm.data.runner import (
    FORMATS, FieldScore, Reading, Semantic, Substring, corpus_stats, cut_corpus, dedup_corpus, filter_corpus, length, render_run, select_corpus,
)  # fmt: skip
from effllm.data.runner.read import MAX_BYTES
from effllm.data.runner.shares import Share


@click.group("data")
def data_group():
    """Prepare, filter, deduplicate, select and describe a corpus.

    \b
    effllm data filter books/ clean/ --filter "GopherQuality()" --filter "C4(min_sentences=3)"
    effllm data dedup  clean/ deduplicated/ --by "Near(threshold=0.8)" --workers 8
    effllm data report deduplicated/ report.html

    IN is a file, a folder, a glob or tfds:name/split: text, Markdown, JSON lines (each also .gz or .zst), parquet, array_record. OUT is a
    new folder of part-*.jsonl.zst (or .array_record) and manifest.json, where in = out + dropped by reason. Documents keep their ids and
    other fields. A run that is killed continues with the same command.
    """


@dataclass(frozen=True)
class CommandLine:
    """Where override() checks a class given on the command line."""

    filter: Filter | None = None
    by: Keyed | Substring | Semantic | None = None
    share: Share | None = None


def parsed(kind: str, text: str) -> Any:
    """The filter or method that `text` writes, as GopherQuality(min_words=20). Raises ValueError that names the nearest class or field."""
    return getattr(override(CommandLine(), f"{kind}={text if '(' in text else text + '()'}"), kind)


class OnError(click.ParamType):
    """stop, or skip:N."""

    name = "stop|skip:N"

    def convert(self, value, param, ctx):
        if value == "stop":
            return 0
        if match := re.fullmatch(r"skip:(\d+)", str(value)):
            return int(match[1])
        self.fail(f"{value!r} is neither stop nor skip:N", param, ctx)


def options(*decorators: Callable) -> Callable[[Callable], Callable]:
    """The command with all of the decorators."""
    return lambda command: functools.reduce(lambda f, decorate: decorate(f), reversed(decorators), command)


def reading_options(command: Callable) -> Callable:
    """The options that say how records are read; the command gets reading=Reading(…), quiet and as_json."""

    @functools.wraps(command)
    def run(*, field, id_field, skip, max_bytes, **more):
        return command(reading=Reading(field, id_field, skip, max_bytes), **more)

    return options(
        click.option("--field", default="text", show_default=True, help="The field that holds the text, in JSON lines, parquet and TFDS."),
        click.option("--id-field", default="id", show_default=True, help="The field that holds the id; without one, ids are file:line."),
        click.option("--on-error", "skip", type=OnError(), default="stop", show_default=True, help="Stop at the first bad record, or pass over up to N."),
        click.option("--max-bytes", default=MAX_BYTES, show_default=True, help="A longer line or text file is a bad record."),
        click.option("--quiet", is_flag=True, help="No progress bar."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    )(run)


def corpus_command(name: str, *more_options: Callable) -> Callable[[Callable], click.Command]:
    """A verb IN OUT. The function below it gets source, out, its own options and `how`, the keywords of a runner; it returns the manifest."""

    def declare(function: Callable) -> click.Command:
        @functools.wraps(function)
        def run(source, out, *, reading, form, workers, shard_mb, quiet, as_json, **own):
            how = {"reading": reading, "form": form, "workers": workers, "shard_bytes": shard_mb << 20, "progress": not quiet}
            summary(function(source, out, how, **own), out, as_json)

        return options(
            data_group.command(name),
            click.argument("source", metavar="IN"),
            click.argument("out", metavar="OUT", type=click.Path()),
            *more_options,
            click.option("--format", "form", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True, help="What parts are."),
            click.option("--workers", type=click.IntRange(1), default=os.cpu_count() or 1, show_default="the cores", help="Processes."),
            click.option("--shard-mb", type=click.IntRange(0), default=64, show_default=True, help="Small input files are taken together up to this size."),
            reading_options,
        )(run)

    return declare


@corpus_command("prepare")
def prepare_command(source, out, how):
    """Read IN, check every record, and write it as one folder of compressed JSON lines or array_record; drops nothing."""
    return filter_corpus(source, out, (), command="prepare", **how)


FINEWEB = (rules.GopherRepetition(), rules.GopherQuality(), rules.C4(any_ending=True), rules.FineWeb())


@corpus_command("filter", click.option(
    "--filter", "given", multiple=True, metavar="CLASS(field=value)", help="In order; by default GopherRepetition, GopherQuality, C4(any_ending=True), FineWeb."))
def filter_command(source, out, how, given):
    """Keep the documents that pass every filter, in the order given.

    \b
    GopherQuality GopherRepetition C4 FineWeb   the published rules with their thresholds as fields
    Length Language PII Blocklist               lengths, language, masks personal data, phrases in a file
    Perplexity(model="good.txt", high=3)        bits per byte under a 5-gram model of good.txt
    Quality(score="model.npz")                  a LinearClassifier that was saved
    Uncontaminated(evaluation="test.txt")       no 13 words in a row from a line of test.txt
    """
    return filter_corpus(source, out, [parsed("filter", text) for text in given] or FINEWEB, **how)


@corpus_command(
    "dedup",
    click.option("--by", default="Near()", show_default=True, metavar="CLASS(field=value)", help="Exact, Near (MinHash), NearBits (SimHash), Substring, Semantic (SemDeDup) or D4."),
    click.option("--score-field", help="The numeric field whose highest value stays (Exact, Near, NearBits); by default the longest text does."),
)
def dedup_command(source, out, how, by, score_field):
    """Keep one document of every cluster of duplicates, or cut what is repeated out of the texts.

    \b
    Exact(normalised=True)                            the same words
    Near(threshold=0.8, ngram=5, bands=14, rows=8)    Jaccard similarity of word 5-grams of at least 0.8
    NearBits(distance=3)                              SimHash fingerprints that differ in at most 3 of 64 bits
    Substring(length=200)                             cuts every later copy of 200 bytes or more; by a suffix array in memory
    Semantic(epsilon=0.05)                            SemDeDup by tf-idf of hashed words; Semantic(HiddenStates(run="runs/first")) by a run
    D4(epsilon=0.05, keep=0.8)                        SemDeDup, then without the most prototypical fifth
    """
    method = parsed("by", by)
    if isinstance(method, Keyed):
        return dedup_corpus(source, out, method, score=FieldScore(score_field) if score_field else length, **how)
    if score_field:
        raise ValueError(f"--score-field={score_field}: {type(method).__name__} keeps by its own rule; leave the option out")
    return cut_corpus(source, out, method, **how) if isinstance(method, Substring) else select_corpus(source, out, method, command="dedup", **how)


@corpus_command("select", click.option(
    "--share", required=True, metavar="CLASS(field=value)", help="RandomShare, PerplexityShare, FieldShare or TowardTarget (DSIR)."))
def select_command(source, out, how, share):
    """Keep a share of the documents; scores are kept in OUT/scores.

    \b
    RandomShare(keep=0.1, seed=0)                                     the control
    PerplexityShare(model="good.txt", keep=0.5, part="middle")        by bits per byte under a 5-gram model of good.txt
    FieldShare(field="loss", keep=0.5, part="top")                    by a number that each record carries
    TowardTarget(target="wanted.txt", keep=0.1, min_words=100)        DSIR toward the lines of wanted.txt
    """
    return select_corpus(source, out, parsed("share", share), **how)


@data_group.command("stats")
@click.argument("source", metavar="IN")
@click.argument("out", metavar="[OUT]", required=False, type=click.Path())
@reading_options
def stats_command(source, out, reading, quiet, as_json):
    """Count documents, bytes, words, lines and exact duplicates of IN; OUT, if given, is a JSON file."""
    found = corpus_stats(source, reading=reading, progress=not quiet)
    if out:
        Path(out).write_text(json.dumps(found, indent=1) + "\n")
    if as_json:
        click.echo(json.dumps(found))
        return
    for name in ("documents", "files", "bytes", "words", "lines", "exact_duplicates", "unreadable"):
        click.echo(f"{name.replace('_', ' '):17} {found[name]:>15,}")
    click.echo("bytes a document  " + ", ".join(f"{share} {size:,.0f}" for share, size in found["document_bytes"].items()))


@data_group.command("report")
@click.argument("run", metavar="IN", type=click.Path())
@click.argument("out", metavar="OUT", type=click.Path())
def report_command(run, out):
    """Write the HTML page OUT about the finished run in the folder IN: what was dropped and why, with examples."""
    page = render_run(run)
    Path(out).write_text(page)
    click.echo(out)


def summary(manifest: dict, out: str, as_json: bool) -> None:
    """What a run did, for a person or a machine."""
    if as_json:
        told = {name: manifest[name] for name in ("in", "out", "dropped", "skipped", "clusters", "cut") if name in manifest}
        click.echo(json.dumps(told | {"folder": str(out)}))
        return
    click.echo(f"{manifest['in']:,} documents in, {manifest['out']:,} out, in {out}")
    for reason, count in sorted(manifest["dropped"].items(), key=lambda item: -item[1]):
        click.echo(f"  {reason:32} {count:>12,}  {100 * count / max(manifest['in'], 1):.2f} %")
    if "cut" in manifest:
        click.echo("  cut out: {bytes:,} bytes in {spans:,} spans of {documents:,} documents".format(**manifest["cut"]))
    for message in manifest["skipped"][:3]:
        click.echo(f"  skipped: {message}")
