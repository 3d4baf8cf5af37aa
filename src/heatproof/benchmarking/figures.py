"""The charts of a benchmark: means with intervals by method, and curves."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from heatproof.benchmarking import summary_text
from heatproof.benchmarking.summary_text import Summary
from heatproof.plots import chart
from heatproof.plots.style import FAINT, LINE, OURS, RIVAL, SERIES, chart_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TIGHT = 0.62  # of a row's usual height: a benchmark has many
CONTROL_LINES = ("-", "--", "-.", ":")


@chart_style()
def means(summary: Summary, metric: Summary, splits: Sequence[str], name: str) -> str:
    """Draw a row per method, a panel per answer; the band is the best control's interval."""
    order = [row["method"] for row in metric["tables"][splits[0]]]
    figure, panels = chart.new_chart(len(order) * TIGHT, len(splits))
    controls = {entry["label"] for entry in summary["methods"] if entry["control"]}
    for axes, split in zip(panels, splits, strict=True):
        chart.label_rows(axes, order if axes is panels[0] else [""] * len(order))
        # Rows are ranked, so the first control is the best one.
        best = next((r for r in metric["tables"][split] if r["method"] in controls), None)
        band = None if best is None else chart.point(best["mean"])
        if band is not None:
            axes.axvspan(band.low, band.high, color=RIVAL, alpha=0.18, linewidth=0)
        for at, method in enumerate(order):
            row = summary_text.row_of(metric, split, method)
            point = None if row is None else chart.point(row["mean"])
            if point is not None:
                control = method in controls
                colour = RIVAL if control else OURS
                chart.dot(axes, point, at, colour, "s" if control else "o", split)
            else:
                chart.note(axes, at, summary_text.UNMEASURED)
        count = max((r["mean"]["count"] for r in metric["tables"][split]), default=0)
        axes.set_title(f"{_where(split)} (n = {count})", fontsize=10, loc="left")
        axes.tick_params(axis="y", labelsize=8)
        axes.margins(x=0.08)
    direction = {"neither": ""}.get(metric["better"], f", {metric['better']} is better")
    figure.supxlabel(f"{metric['label']}{direction}", fontsize=9, color=FAINT)
    return chart.svg(figure, f"means-{name}", f"{metric['label']} by method, with intervals")


@chart_style()
def curves(summary: Summary, metric: Summary, splits: Sequence[str], name: str) -> str:
    """Draw mean curves: the first methods and the controls named, all others thin behind them."""
    curve = metric["curve"]
    figure, panels = chart.new_chart(5, len(splits))
    controls = [entry["label"] for entry in summary["methods"] if entry["control"]]
    ranking = [row["method"] for row in metric["tables"][splits[0]]]
    first = [method for method in ranking if method not in controls][: len(SERIES)]
    for axes, split in zip(panels, splits, strict=True):
        for method, heights in curve[split].items():
            if method not in first and method not in controls:
                axes.plot(curve["fractions"], heights, color=LINE, linewidth=0.8)
        _plot_named(axes, curve, split, controls, [RIVAL] * len(controls), CONTROL_LINES)
        _plot_named(axes, curve, split, first, SERIES, ["-"] * len(SERIES))
        axes.set_title(_where(split), fontsize=10, loc="left")
        axes.set_xlabel("share of the cells removed or inserted")
        axes.grid()
    panels[0].set_ylabel("mean over images")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    return chart.svg(figure, f"curves-{name}", f"{metric['label']}: curves by method")


def _plot_named(
    axes: "Axes",
    curve: Any,
    split: str,
    methods: Sequence[str],
    colours: Sequence[str],
    lines: Sequence[str],
) -> None:
    for method, colour, line in zip(methods, colours, lines, strict=False):
        # A method without a curve here is named all the same: its colour stays its own.
        heights = curve[split].get(method, [math.nan] * len(curve["fractions"]))
        axes.plot(
            curve["fractions"], heights, color=colour, linestyle=line, linewidth=1.6, label=method
        )[0].set_gid(chart.gid("curve"))


def _where(split: str) -> str:
    return "all images" if split == "unknown" else f"model {split}"
