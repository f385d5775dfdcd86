"""The pictures of a report, as SVG text."""

import io
import math

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

INK, GRID, COLOURS = "#1f2933", "#e4e7eb", ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
STYLE = {
    "font.family": "sans-serif", "font.size": 10, "svg.fonttype": "none", "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID,
    "svg.hashsalt": "effllm",
}  # fmt: skip


def _svg(figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def curves(series: dict[str, tuple[list[float], list[float]]], marks: dict[str, tuple[list[float], list[float]]], label: str, x_label: str) -> str:
    """Lines by name, with points by the same names where something was measured besides; names go into the legend when there are several."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7.2, 3.4))
        for colour, name in zip(_cycle(len(series)), series, strict=True):
            axis.plot(*series[name], color=colour, linewidth=1.4, label=name if len(series) > 1 else "training")
            if marks.get(name, ([], []))[0]:
                axis.plot(*marks[name], "o", color=colour, markersize=5, markeredgecolor="white", label=None if len(series) > 1 else "held out")
        axis.set_xlabel(x_label)
        axis.set_ylabel(label)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
        return _svg(figure)


def bars(values: dict[str, float], highlight: set[str], label: str) -> str:
    """Horizontal bars, smallest on top; the highlighted ones in colour."""
    with plt.rc_context(STYLE):
        order = sorted(values, key=values.__getitem__, reverse=True)
        figure, axis = plt.subplots(figsize=(7.2, 0.5 + 0.42 * len(order)))
        drawn = axis.barh(order, [values[n] for n in order], color=[COLOURS[0] if n in highlight else "#9aa5b1" for n in order], height=0.62)
        axis.bar_label(drawn, fmt="%.2f", padding=4)
        axis.grid(visible=False)
        axis.set_xlabel(label)
        axis.set_xlim(0, 1.12 * max(values.values()))
        return _svg(figure)


def _cycle(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def finite(points: list[tuple[float, float | None]]) -> tuple[list[float], list[float]]:
    """Points without those that were not finite, as (xs, ys)."""
    kept = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
    return [x for x, _ in kept], [y for _, y in kept]
