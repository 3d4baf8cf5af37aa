"""The tables of a benchmark as text, with titles: what the page, Markdown and LaTeX show."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from heatproof.benchmarking import summary_text
from heatproof.benchmarking.request import CONTROLS
from heatproof.benchmarking.summary_text import UNMEASURED, Summary
from heatproof.pages.render import Cell

ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}
CHANGES = "what it changes in the model"
PROSE = (CHANGES, "imputers")


@dataclass(frozen=True)
class TextTable:
    """A table of text and marked cells, with what a caption says."""

    title: str
    head: list[str | Cell]
    rows: list[list[str | Cell]]

    @property
    def numbers(self) -> list[int]:
        """The columns that hold numbers: all but the first and those of prose."""
        return [n for n, name in enumerate(self.head) if n and name not in PROSE]

    @property
    def plain(self) -> list[list[str]]:
        """Head and rows in plain text."""
        return [[plain(cell) for cell in row] for row in (self.head, *self.rows)]


def plain(cell: str | Cell) -> str:
    """Return a cell's text, what stands below it, and its sign, on one line."""
    parts = (cell,) if isinstance(cell, str) else (cell.text, *cell.below, cell.sign)
    return " ".join(part for part in parts if part)


def split_title(split: str) -> str:
    """Say which images a table is about."""
    return "whether the model is right is not known" if split == "unknown" else f"model {split}"


def splits(summary: Summary) -> list[str]:
    """Return the answers that tables are kept apart by."""
    return ["unknown"] if summary["unknown"] else ["right", "wrong"]


def text_tables(summary: Summary) -> Iterator[TextTable]:
    """Yield an overview per answer, then each metric with its paired differences, then costs."""
    for split in splits(summary):
        yield overview(summary, split)
    for metric in summary["metrics"]:
        for split in splits(summary):
            yield detail(metric, split)
    if summary["stability"]:
        yield agreement(summary)
    yield times(summary)


def overview(summary: Summary, split: str) -> TextTable:
    """Return methods by metrics."""
    metrics = summary["metrics"]
    rows: list[list[str | Cell]] = []
    for method in summary_text.ordered(summary):
        measured = [summary_text.row_of(metric, split, method) for metric in metrics]
        if any(measured):
            rows.append([method, *map(_mean, measured)])
    # Where no mark can stand, its absence must not read as "no difference".
    few = summary[split] < summary["fewest"]
    marks = f", too few for marks (at least {summary['fewest']})" if few else ""
    title = f"{split_title(split)}: {summary[split]} images{marks}"
    return TextTable(title, ["method", *map(_metric_head, metrics)], rows)


def _metric_head(metric: Summary) -> Cell:
    # Options go below the name: side by side they would make the columns too wide.
    name, *options = metric["label"].split()
    return Cell(name, sign=ARROWS[metric["better"]], below=tuple(options))


def _mean(row: Any) -> str | Cell:
    if row is None or row["mean"]["value"] is None:
        return UNMEASURED
    value, ends = summary_text.interval(row["mean"]).split(" ", 1)
    return Cell(value, sign=summary_text.mark(row), below=(ends,))


def detail(metric: Summary, split: str) -> TextTable:
    """Return one metric: mean, paired differences, how many values, how many of them NaN."""
    rows = metric["tables"][split]
    control = next((r["over_control"]["against"] for r in rows if r["over_control"]), None)
    # Rows are ranked: the first has nothing above it to be compared with, the last nothing below.
    measured = [row["method"] for row in rows if row["mean"]["value"] is not None]
    unranked = metric["better"] == "neither"
    last, first = ([], []) if unranked else (measured[-1:], measured[:1])
    best = control or next((m for m in measured if m in CONTROLS), None)

    def why(row: Any, own: Sequence[str | None], reason: str) -> str:
        """Return why there is no difference in a cell."""
        if row["mean"]["value"] is None:
            return UNMEASURED
        return reason if row["method"] in own else ("not ranked" if unranked else UNMEASURED)

    body: list[list[str | Cell]] = [
        [
            row["method"],
            summary_text.interval(row["mean"]),
            *_difference(row["over_control"], why(row, [best], "the best control")),
            *_difference(row["over_next"], why(row, last, "the last one")),
            *_difference(row["over_first"], why(row, first, "the first one")),
            str(row["mean"]["count"]),
            str(row["nan"]),
        ]
        for row in rows
    ]
    head: list[str | Cell] = [
        "method", "mean", f"minus {best or 'control'}", "", "minus the next one", "",
        "minus the first one", "", "n", "NaN",
    ]  # fmt: skip
    chance = f"; chance: {metric['chance']}" if metric["chance"] else ""
    better = {"neither": "not ranked"}.get(metric["better"], f"{metric['better']} is better")
    title = f"{metric['label']}, {split_title(split)} ({better}{chance})"
    return TextTable(title, head, body)


def _difference(difference: Any, otherwise: str) -> tuple[str, str | Cell]:
    if difference is None:
        return otherwise, ""
    sign = summary_text.MARKS[difference["verdict"]]
    return summary_text.interval(difference), Cell("", sign=sign) if sign else ""


def agreement(summary: Summary) -> TextTable:
    """Return rank stability: a row per pair of imputers."""
    shown = splits(summary)
    values = {(e["metric"], e["one"], e["other"], e["split"]): e for e in summary["stability"]}
    rows: list[list[str | Cell]] = []
    for metric, one, other in dict.fromkeys(key[:3] for key in values):
        taus = [values.get((metric, one, other, split)) for split in shown]
        cells = [UNMEASURED if tau is None else summary_text.interval(tau) for tau in taus]
        rows.append([metric, f"{one} / {other}", *cells])
    head = ["metric", "imputers", *(f"Kendall's tau, {split_title(split)}" for split in shown)]
    return TextTable("Do rankings hold across imputers?", [*head], rows)


def times(summary: Summary) -> TextTable:
    """Return what a map costs."""
    rows: list[list[str | Cell]] = [
        [
            method["label"],
            UNMEASURED
            if method["seconds_per_map"] is None
            else f"{1000 * method['seconds_per_map']:.1f}",
            method["changes"],
        ]
        for method in summary["methods"]
    ]
    return TextTable("What a map costs", ["method", "ms per map", CHANGES], rows)
