"""report.html: what may be claimed, for a reviewer with a minute; every number behind it."""

from collections.abc import Sequence
from typing import Any

from heatproof.benchmarking import figures, summary_text, text_tables
from heatproof.benchmarking.summary_text import Summary
from heatproof.pages import render

CARD = ("formula", "chance", "undefined", "endpoints", "imputer", "steps", "space", "ties",
        "source", "differs")  # fmt: skip


def page(summary: Summary) -> str:
    """Return the whole page; it needs nothing else and asks for nothing."""
    splits = text_tables.splits(summary)
    headline, *rest = summary_text.headline(summary)
    return render.page(
        "benchmark.html",
        summary=summary,
        methods=len(summary_text.own(summary)),
        headline=headline,
        lines=[*rest, *summary_text.stable(summary)],
        notices=_notices(summary),
        legend=f"{summary_text.LEGEND} {summary_text.compared(summary)}",
        overviews=[text_tables.overview(summary, split) for split in splits],
        agreement=text_tables.agreement(summary) if summary["stability"] else None,
        metrics=[
            _metric(summary, metric, splits, f"m{number}")
            for number, metric in enumerate(summary["metrics"])
        ],
        times=text_tables.times(summary),
        made_with=_made_with(summary),
    )


def _notices(summary: Summary) -> list[str]:
    notices = [str(notice) for notice in summary["notices"]]
    for left in summary["left_out"]:
        pair = " x ".join(name for name in (left["method"], left["metric"]) if name)
        notices.append(f"{pair} is left out: {left['reason']}")
    return notices


def _metric(
    summary: Summary, metric: Summary, splits: Sequence[str], anchor: str
) -> dict[str, Any]:
    """Return a metric's section: its charts, what comes first, its card, its tables."""
    charts = [figures.means(summary, metric, splits, anchor)]
    # Of a metric without any curve in these data an empty chart would be drawn.
    if metric["curve"] and any(metric["curve"][split] for split in splits):
        charts.insert(0, figures.curves(summary, metric, splits, anchor))
    settings = ", ".join(f"{key}={value}" for key, value in metric["settings"].items())
    firsts = [
        f"{text_tables.split_title(split).capitalize()}: {summary_text.best(metric, split)}."
        for split in splits
    ]
    unranked = metric["better"] == "neither"
    return {
        "anchor": anchor,
        "label": metric["label"],
        "summary": metric["summary"],
        "firsts": f"{summary_text.best(metric, '')}." if unranked else " ".join(firsts),
        "charts": charts,
        "card": {key: metric[key] for key in CARD if metric[key]}
        | ({"settings": settings} if settings else {}),
        "tables": [text_tables.detail(metric, split) for split in splits],
    }


def _made_with(summary: Summary) -> dict[str, Any]:
    asked = {key: summary["order"][key] for key in ("images", "batch_size", "device", "dtype")}
    return {**summary["environment"], **asked, "seconds": summary["seconds"]}
