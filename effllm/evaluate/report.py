"""report.html: one self-contained page for a run, or for several on the same axes."""

import html
import json
from dataclasses import dataclass, field
from typing import Any

CSS = """
:root{color-scheme:light}body{font:16px/1.55 system-ui,sans-serif;color:#1f2933;background:#fff;max-width:60rem;margin:2.5rem auto;padding:0 1.25rem}
h1{font-size:1.7rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:2.2rem 0 .6rem;border-bottom:1px solid #e4e7eb;padding-bottom:.25rem}
p.lead{font-size:1.1rem;margin:.2rem 0 1.2rem}.figures{display:flex;flex-wrap:wrap;gap:.8rem;margin:1rem 0}
.figure{flex:1 1 9rem;background:#f5f7fa;border-radius:.5rem;padding:.7rem .9rem}.figure b{display:block;font-size:1.35rem}.figure span{color:#52606d;font-size:.85rem}
table{border-collapse:collapse;width:100%;font-size:.93rem}th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #e4e7eb;vertical-align:top}
th{color:#52606d;font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
pre{background:#f5f7fa;border-radius:.5rem;padding:.8rem 1rem;overflow-x:auto;font-size:.86rem;line-height:1.45;white-space:pre-wrap;overflow-wrap:anywhere}
pre mark{background:#dbeafe;color:inherit}svg{width:100%;height:auto}small,.note{color:#52606d}details summary{cursor:pointer;color:#52606d}
"""


@dataclass(frozen=True)
class RunRecord:
    """What a run directory holds, as plain data."""

    name: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    evals: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


def number(value: float | None, unit: str = "") -> str:
    """A figure with a metric prefix: 1.23 M; "—" for None."""
    if value is None:
        return "—"
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def render(runs: list[RunRecord]) -> str:
    """The page of these runs as HTML text without references to anything outside. Raises ValueError without runs."""
    if not runs:
        raise ValueError("a report needs at least one run")
    title = runs[0].name if len(runs) == 1 else " · ".join(r.name for r in runs)
    body = [f"<h1>{html.escape(title)}</h1>", _lead(runs), _figures(runs[0]) if len(runs) == 1 else "", _loss(runs), _bytes(runs), *map(_sample, runs)]
    body += [_cost(runs), _differences(runs) if len(runs) > 1 else "", *(_origin(r, len(runs) > 1) for r in runs)]
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)} — effllm</title><style>{CSS}</style>{"".join(body)}</html>\n'


def _lead(runs: list[RunRecord]) -> str:
    if len(runs) > 1:
        return f'<p class="lead">{len(runs)} training runs on the same axes.</p>'
    run, data = runs[0], runs[0].info.get("data", {})
    text = f"A {number(run.info.get('cost', {}).get('parameters'))}-parameter language model"
    if data:
        text += f" trained on {html.escape('; '.join([data['source'], *data['notes']]))}: {number(data['train_bytes'], 'B')} of text, {number(data['held_out_bytes'], 'B')} held out"
    if "converted" in run.info:
        return f'<p class="lead">{text} converted from {html.escape(run.info["converted"])}; not trained here.</p>'
    step = run.metrics[-1]["step"] if run.metrics else 0
    return f'<p class="lead">{text}; {step:,} of {run.config.get("steps", 0):,} steps done.</p>'


def _decimals(value: float | None, places: int) -> str:
    return "—" if value is None else f"{value:.{places}f}"


def _figures(run: RunRecord) -> str:
    held = run.result.get("held_out", {})
    speeds = sorted(r["tokens_per_second"] for r in run.metrics)
    shown = [
        (_decimals(held.get("bits_per_byte"), 3), "bits per byte, held out"),
        (_decimals(held.get("loss"), 3), "nats per token, held out"),
        (_decimals(held.get("perplexity"), 2), "perplexity per token"),
        (number(speeds[len(speeds) // 2]) if speeds else "—", "tokens per second (median)"),
    ]
    return f'<div class="figures">{"".join(f"<div class=figure><b>{v}</b><span>{n}</span></div>" for v, n in shown)}</div>'


def _loss(runs: list[RunRecord]) -> str:
    from effllm.evaluate import plots

    series = {r.name: plots.finite([(m["step"], m["loss"]) for m in r.metrics]) for r in runs}
    marks = {r.name: plots.finite([(e["step"], e["loss"]) for e in r.evals]) for r in runs}
    if not any(xs for xs, _ in series.values()):
        return "<h2>Loss</h2><p class=note>No step was logged yet.</p>"
    note = f"Lines: training loss of single batches. {_dots(runs)}" if any(r.evals for r in runs) else "Training loss of single batches."
    if len({repr(r.config.get("data", {}).get("tokenizer")) for r in runs}) > 1:
        note += " The runs have different tokens, whose nats do not compare: bits per byte do."
    return f"<h2>Loss</h2>{plots.curves(series, marks, 'loss (nats per token)', 'step')}<p class=note>{note}</p>"


def _dots(runs: list[RunRecord]) -> str:
    evaluated = [r for r in runs if r.evals]
    if all(r.evals[-1].get("tokens") == r.result.get("held_out", {}).get("tokens") for r in evaluated):
        return "Dots: held-out loss."
    batches = " or ".join(str(n) for n in sorted({r.config.get("eval_batches", 0) for r in evaluated}))
    return f"Dots: held-out loss of the first {batches} batches (eval_batches); figures are of the whole held-out text."


def _bytes(runs: list[RunRecord]) -> str:
    from effllm.evaluate import plots

    ours = {r.name: r.result["held_out"]["bits_per_byte"] for r in runs if r.result.get("held_out", {}).get("bits_per_byte") is not None}
    if not ours:
        return ""
    if len({r.info.get("data", {}).get("fingerprint") for r in runs if r.name in ours}) > 1:
        others, note = {}, "Fewer is better. The runs have different data, so these figures are of different texts, and no baselines are shown."
    else:
        others = {k: v for r in runs for k, v in r.result.get("baselines", {}).items()}
        note = "Fewer is better. n-gram models were fitted on the training text; gzip and xz see the held-out text alone, whole."
    picture = plots.bars(others | ours, set(ours), "bits per byte of held-out text")
    return f"<h2>Beside other models of the same bytes</h2>{picture}<p class=note>{note}</p>"


def _sample(run: RunRecord) -> str:
    sample = run.result.get("sample")
    if not sample:
        return ""
    text = f"<mark>{html.escape(sample['prompt'])}</mark>{html.escape(sample['text'])}"
    return f"<h2>A sample of {html.escape(run.name)}</h2><pre>{text}</pre><p class=note>Marked: the prompt. {html.escape(sample['how'])}</p>"


COST_ROWS = (
    ("parameters", "Parameters", ""), ("bytes", "Size of the parameters", "B"), ("forward_flops", "FLOPs per token, forward", "FLOP"),
    ("training_flops", "FLOPs per token, training", "FLOP"), ("state_bytes", "Decoding state of one sequence", "B"),
    ("tokens_per_second", "Training tokens per second", ""), ("utilisation", "Model FLOPs utilisation", ""), ("peak_memory", "Peak memory", "B"),
    ("seconds", "Time of the last start that trained", "s"),
)  # fmt: skip


def _cost(runs: list[RunRecord]) -> str:
    def cell(run: RunRecord, key: str, unit: str) -> str:
        value = {**run.info.get("cost", {}), **run.result.get("cost", {})}.get(key)
        return html.escape(value) if isinstance(value, str) else number(value, unit)

    head = "".join(f"<th class=n>{html.escape(r.name)}</th>" for r in runs)
    rows = "".join(f"<tr><td>{label}</td>{''.join(f'<td class=n>{cell(r, key, unit)}</td>' for r in runs)}</tr>" for key, label, unit in COST_ROWS)
    formula = html.escape(runs[0].info.get("formula", ""))
    return f"<h2>Cost</h2><table><tr><th></th>{head}</tr>{rows}</table><p class=note>{formula}</p>"


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = [(f"{path}.{k}" if path else k, v) for k, v in value.items()]
    elif isinstance(value, list):
        items = [(f"{path}.{i}", v) for i, v in enumerate(value)]
    else:
        return {path: value}
    return {k: v for p, inner in items for k, v in _flat(inner, p).items()}


def _differences(runs: list[RunRecord]) -> str:
    flat = [_flat(r.config) for r in runs]
    names = [n for n in dict.fromkeys(n for f in flat for n in f) if len({repr(f.get(n, "—")) for f in flat}) > 1]
    if not names:
        return "<h2>Configuration</h2><p>The runs have the same configuration.</p>"
    def cell(config: dict[str, Any], name: str) -> str:
        return f"<td>{html.escape(str(config.get(name, '—')))}</td>"

    head = "".join(f"<th>{html.escape(r.name)}</th>" for r in runs)
    rows = "".join(f"<tr><td>{html.escape(n)}</td>{''.join(cell(f, n) for f in flat)}</tr>" for n in names)
    return f"<h2>What differs between the configurations</h2><table><tr><th></th>{head}</tr>{rows}</table>"


def _origin(run: RunRecord, named: bool) -> str:
    info = run.info
    rows = [(k, info.get(k)) for k in ("command", "started", "hardware", "mesh")] + [("versions", ", ".join(f"{k} {v}" for k, v in info.get("versions", {}).items()))]
    data = info.get("data", {})
    if data:
        rows.append(("data", f"{data['source']}; {data['train_documents']:,} documents to train on, {data['held_out_documents']:,} held out; SHA-256 {data['fingerprint']}"))
    table = "".join(f"<tr><th>{k}</th><td>{html.escape(str(v))}</td></tr>" for k, v in rows if v)
    config = html.escape(json.dumps(run.config, indent=1))
    return f"<h2>How it was made{': ' + html.escape(run.name) if named else ''}</h2><table>{table}</table><details><summary>The whole configuration</summary><pre>{config}</pre></details>"
