"""A page that shows what was dropped and why, with examples a person can read."""

import difflib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}table{border-collapse:collapse}
td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ddd}td.n{text-align:right;font-variant-numeric:tabular-nums}
.bar{display:inline-block;height:.8em;background:#4878a8}.pair{display:grid;grid-template-columns:1fr 1fr;gap:1em}
pre{white-space:pre-wrap;background:#f6f6f4;padding:.8em;margin:0;font-size:13px;overflow-wrap:anywhere}ins{background:#cfe8cf;text-decoration:none}
del{background:#f3d0d0;text-decoration:none}.id{color:#666;font-size:13px;overflow-wrap:anywhere}"""
_SHOWN = 1200


@dataclass(frozen=True)
class Example:
    """A dropped document: its id and text, why, and of a duplicate the document that stayed instead."""

    id: str
    text: str
    reason: str
    kept_id: str = ""
    kept_text: str = ""
    similarity: float | None = None


def render(title: str, counts: Mapping[str, int], cluster_sizes: Mapping[int, int], examples: Sequence[Example]) -> str:
    """One self-contained HTML page.

    counts: documents by outcome, "kept" among them; cluster_sizes: {size: clusters of that size}, empty where nothing was clustered.
    """
    total = max(sum(counts.values()), 1)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td class=n>{count:,}</td><td class=n>{100 * count / total:.2f} %</td>"
        f"<td><span class=bar style='width:{200 * count / total:.0f}px'></span></td></tr>"
        for name, count in sorted(counts.items(), key=lambda item: (item[0] != "kept", -item[1], item[0])))
    parts = [f"<h1>{html.escape(title)}</h1>", f"<table><tr><th>outcome</th><th>documents</th><th>share</th><th></th></tr>{rows}</table>"]
    if cluster_sizes:
        sizes = "".join(f"<tr><td class=n>{size:,}</td><td class=n>{count:,}</td></tr>" for size, count in sorted(cluster_sizes.items()))
        parts.append(f"<h2>Clusters</h2><table><tr><th>documents</th><th>clusters</th></tr>{sizes}</table>")
    for reason in dict.fromkeys(example.reason for example in examples):
        parts.append(f"<h2>{html.escape(reason)}</h2>")
        parts.extend(_example(example) for example in examples if example.reason == reason)
    return f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>{''.join(parts)}\n"


def _example(example: Example) -> str:
    name = f"<p class=id>{html.escape(example.id)}"
    if not example.kept_id:
        return f"{name}</p><pre>{html.escape(_cut(example.text))}</pre>"
    similarity = "" if example.similarity is None else f", similarity {example.similarity:.3f}"
    dropped, kept = _marked(_cut(example.text), _cut(example.kept_text))
    return f"{name}, for {html.escape(example.kept_id)}{similarity}</p><div class=pair><pre>{dropped}</pre><pre>{kept}</pre></div>"


def _marked(dropped: str, kept: str) -> tuple[str, str]:
    """Both texts as HTML, the words that differ marked."""
    a, b = dropped.split(" "), kept.split(" ")
    left, right = [], []
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        one, other = html.escape(" ".join(a[a0:a1])), html.escape(" ".join(b[b0:b1]))
        left.append(one if kind == "equal" else f"<del>{one}</del>" if one else "")
        right.append(other if kind == "equal" else f"<ins>{other}</ins>" if other else "")
    return " ".join(filter(None, left)), " ".join(filter(None, right))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " …"
