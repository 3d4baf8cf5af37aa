"""The files of a benchmark: the page, benchmark.json, and the tables as Markdown and LaTeX."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from heatproof.benchmarking import summary_text
from heatproof.benchmarking.request import CONTROLS
from heatproof.benchmarking.summary_text import UNMEASURED, Summary
from heatproof.statistics import FEWEST

ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}
LEGEND = (
    "Means with 95 % intervals over pictures. ▲ better than every control of that column, ▼ worse "
    f"than at least one. No mark: no difference can be claimed; below {FEWEST} pictures none is."
)


class Grid:
    """A table of plain text, with what a caption says."""

    def __init__(self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.title, self.head, self.rows = title, list(head), [list(row) for row in rows]


def write(summary: Summary, folder: Path) -> Path:
    """All files but the Parquet ones; returns the path of the page."""
    from heatproof.benchmarking.page import page

    texts = {
        "benchmark.json": json.dumps(summary, indent=1, allow_nan=False) + "\n",
        "table.md": markdown(summary),
        "table.tex": latex(summary),
        "report.html": page(summary),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    return folder / "report.html"


def where(split: str) -> str:
    return "whether the model is right is not known" if split == "unknown" else f"model {split}"


def grids(summary: Summary) -> Iterator[Grid]:
    """An overview for each answer, then each metric with its paired differences."""
    for split in splits(summary):
        yield overview(summary, split)
    for metric in summary["metrics"]:
        for split in splits(summary):
            yield detail(metric, split)
    if summary["stability"]:
        yield agreement(summary)
    yield times(summary)


def splits(summary: Summary) -> list[str]:
    return ["unknown"] if summary["unknown"] else ["right", "wrong"]


def overview(summary: Summary, split: str) -> Grid:
    """Methods by metrics."""
    metrics = summary["metrics"]
    head = ["method", *(f"{e['label']} {ARROWS[e['better']]}".strip() for e in metrics)]
    rows: list[list[str]] = []
    for method in summary_text.ordered(summary):
        cells = [summary_text.row_of(metric, split, method) for metric in metrics]
        if any(cells):
            rows.append([method, *(_cell(cell) for cell in cells)])
    few = summary[split] < summary["fewest"]
    marks = f", too few for marks (at least {summary['fewest']})" if few else ""
    return Grid(f"{where(split)}: {summary[split]} pictures{marks}", head, rows)


def _cell(row: Any) -> str:
    return (
        UNMEASURED
        if row is None
        else f"{summary_text.interval(row['mean'])} {summary_text.mark(row)}".strip()
    )


def detail(metric: Summary, split: str) -> Grid:
    """One metric: mean, against the best control, against the next one, how many, how many NaN."""
    rows = metric["tables"][split]
    control = next((r["over_control"]["against"] for r in rows if r["over_control"]), None)
    measured = [row["method"] for row in rows if row["mean"]["value"] is not None]
    unranked = metric["better"] == "neither"
    last, first = ([], []) if unranked else (measured[-1:], measured[:1])
    best = control or next((m for m in measured if m in CONTROLS), None)
    head = ["method", "mean", f"minus {best or 'control'}", "", "minus the next one", "",
            "minus the first one", "", "n", "NaN"]  # fmt: skip

    def why(row: Any, own: Sequence[str | None], said: str) -> str:
        """Why there is no difference in a cell."""
        if row["mean"]["value"] is None:
            return UNMEASURED
        return said if row["method"] in own else ("not ranked" if unranked else UNMEASURED)

    body = [
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
    chance = f"; chance: {metric['chance']}" if metric["chance"] else ""
    better = {"neither": "not ranked"}.get(metric["better"], f"{metric['better']} is better")
    return Grid(f"{metric['label']}, {where(split)} ({better}{chance})", head, body)


def _difference(found: Any, otherwise: str) -> tuple[str, str]:
    if found is None:
        return otherwise, ""
    return summary_text.interval(found), summary_text.MARKS[found["verdict"]]


def agreement(summary: Summary) -> Grid:
    """Rank stability: a row a pair of imputers."""
    shown = splits(summary)
    pairs = dict.fromkeys((e["metric"], e["one"], e["other"]) for e in summary["stability"])
    rows: list[list[str]] = []
    for metric, one, other in pairs:
        found = {
            e["split"]: e
            for e in summary["stability"]
            if (e["metric"], e["one"], e["other"]) == (metric, one, other)
        }
        cells = [summary_text.interval(found[s]) if s in found else UNMEASURED for s in shown]
        rows.append([metric, f"{one} / {other}", *cells])
    head = ["metric", "imputers", *(f"Kendall's tau, {where(split)}" for split in shown)]
    return Grid("Do rankings hold across imputers?", head, rows)


def times(summary: Summary) -> Grid:
    """What a map costs."""
    rows = [
        [
            each["label"],
            _milliseconds(each["seconds_per_map"]),
            each["changes"],
        ]
        for each in summary["methods"]
    ]
    return Grid("What a map costs", ["method", "ms a map", "what it changes in the model"], rows)


def _milliseconds(seconds: float | None) -> str:
    return UNMEASURED if seconds is None else f"{1000 * seconds:.1f}"


def markdown(summary: Summary) -> str:
    """table.md."""
    lines = [*summary_text.headline(summary), *summary_text.stable(summary)]
    parts = [
        "\n".join(f"- {_pipe(line)}" for line in lines),
        f"{LEGEND} {summary_text.compared(summary)}",
    ]
    for grid in grids(summary):
        rows = [grid.head, ["---"] * len(grid.head), *grid.rows]
        body = "\n".join("| " + " | ".join(map(_pipe, row)) + " |" for row in rows)
        parts.append(f"**{_pipe(grid.title)}**\n\n{body}")
    return "\n\n".join(parts) + "\n"


def _pipe(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


SPECIAL = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "▲": r"$^{+}$",
    "▼": r"$^{-}$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "·": r"\textperiodcentered{}",
    "\u00d7": r"$\times$",
    "\u2013": "--",
}


def escaped(text: str) -> str:
    """LaTeX that prints `text`; letters that a plain LaTeX cannot print become a question mark."""
    return "".join(SPECIAL.get(c, c if c.isascii() and c.isprintable() else "?") for c in text)


def latex(summary: Summary) -> str:
    """table.tex: needs booktabs and longtable."""
    tell: Callable[[str], str] = escaped
    lines = [
        *summary_text.headline(summary),
        *summary_text.stable(summary),
        LEGEND,
        summary_text.compared(summary),
    ]
    parts = ["% \\usepackage{booktabs,longtable}", *(f"% {_ascii(line)}" for line in lines)]
    for grid in grids(summary):
        columns = "l" + "r" * (len(grid.head) - 1)
        parts.append(
            "\n".join(
                [
                    f"\\begin{{longtable}}{{{columns}}}",
                    f"\\caption{{{tell(grid.title)}}}\\\\",
                    "\\toprule",
                    " & ".join(map(tell, grid.head)) + " \\\\",
                    "\\midrule\\endhead",
                    *(" & ".join(map(tell, row)) + " \\\\" for row in grid.rows),
                    "\\bottomrule",
                    "\\end{longtable}",
                ]
            )
        )
    return "\n".join(parts) + "\n"


def _ascii(text: str) -> str:
    plain = text.replace("▲", "+").replace("▼", "-")
    return " ".join(c if c.isascii() else "?" for c in plain.split(" "))
