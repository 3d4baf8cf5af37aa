"""report.html: what may be claimed, for a reviewer with a minute; every number behind it."""

from collections.abc import Sequence
from html import escape

from heatproof import __version__
from heatproof.benchmarking import figures, files, summary_text
from heatproof.benchmarking.files import LEGEND, Grid
from heatproof.benchmarking.summary_text import Summary
from heatproof.pages import render

READ = (
    "Where the model is wrong, a map that lies on the object flatters it: there, high localisation "
    "is no merit. So both are shown, and never put together. Controls know nothing of the model: "
    "what is not better than all of them shows nothing in that column."
)
CLASSES = {"▲": '<span class="ok">▲</span>', "▼": '<span class="down">▼</span>'}


def page(summary: Summary) -> str:
    """The whole page; it needs nothing else and asks for nothing."""
    splits = files.splits(summary)
    count = len(summary_text.own(summary))
    body = [
        f"<header><h1>Benchmark of {count} method{'s' if count != 1 else ''}</h1>"
        f"<p>{escape(summary['model'])} · {escape(summary['data'])} · {summary['items']} pictures, "
        f"one prompt each · seed {summary['seed']} · heatproof {__version__}</p></header>",
        _verdict(summary),
        _notices(summary),
        f"<p>{LEGEND} {escape(summary_text.compared(summary))} {READ}</p>",
        *(_overview(summary, split) for split in splits),
        _agreement(summary),
        *(
            _metric(summary, metric, splits, f"m{number}")
            for number, metric in enumerate(summary["metrics"])
        ),
        _grid(files.times(summary)),
        f"<h2>Made with</h2>{render.facts(_made_with(summary))}",
    ]
    return render.document("benchmark", f'<main class="benchmark">{"".join(body)}</main>')


def _verdict(summary: Summary) -> str:
    first, *rest = summary_text.headline(summary)
    lines = [*rest, *summary_text.stable(summary)]
    told = "<br>".join(escape(line) for line in lines)
    return f'<div class="verdict" role="note"><strong>{escape(first)}</strong>{told}</div>'


def _notices(summary: Summary) -> str:
    told = [str(each) for each in summary["notices"]]
    for each in summary["left_out"]:
        what = " x ".join(name for name in (each["method"], each["metric"]) if name)
        told.append(f"{what} is left out: {each['reason']}")
    items = "".join(f"<li>{escape(text)}</li>" for text in told)
    return f'<ul class="notices">{items}</ul>' if items else ""


def _overview(summary: Summary, split: str) -> str:
    """Values with their marks, the intervals small below them."""
    grid = files.overview(summary, split)
    head = [f"<th>{name}</th>" for name in map(_two_lines, grid.head)]
    rows = [
        f"<tr><td>{escape(row[0])}</td>"
        + "".join(f"<td>{_two_lines(cell, ' [')}</td>" for cell in row[1:])
        + "</tr>"
        for row in grid.rows
    ]
    title = f"{grid.title[:1].upper()}{grid.title[1:]}"
    return (
        f'<h2>{escape(title)}</h2><div class="table"><table class="overview">'
        f"<tr>{''.join(head)}</tr>{''.join(rows)}</table></div>"
    )


def _two_lines(cell: str, before: str = " ") -> str:
    """What stands behind the first part goes small on a second line; signs stay on the first."""
    sign = next((sign for sign in (*CLASSES, "↑", "↓") if cell.endswith(sign)), "")
    first, gap, rest = cell.removesuffix(sign).strip().partition(before)
    lines = [gap.strip() + rest] if gap.strip() else rest.split()
    below = "".join(f"<br><small>{escape(line)}</small>" for line in lines if rest)
    return f"{_marked(f'{first} {sign}'.strip())}{below}"


def _grid(grid: Grid, level: str = "h2") -> str:
    rows = [[_marked(cell) for cell in row] for row in grid.rows]
    short = [0] if len(grid.head) > 1 else []
    words_at = {n for n, name in enumerate(grid.head) if name.startswith("what")}
    numbers = [n for n in range(1, len(grid.head)) if n not in words_at]
    table = render.table(grid.head, rows, numbers=numbers, short=short)
    return f"<{level}>{escape(grid.title[:1].upper() + grid.title[1:])}</{level}>{table}"


def _marked(cell: str) -> str:
    told = escape(cell)
    for sign, span in CLASSES.items():
        told = told.replace(sign, span)
    return told


def _agreement(summary: Summary) -> str:
    if not summary["stability"]:
        return ""
    told = (
        "<p>Kendall's tau between the rankings of all methods under two imputers of one metric, "
        "with its interval over pictures: 1 the same order, 0 none. Where it is low, the ranking "
        "is the imputer's as much as the methods'.</p>"
    )
    table = _grid(files.agreement(summary))
    return table.replace("</h2>", f"</h2>{told}", 1)


def _metric(summary: Summary, metric: Summary, splits: Sequence[str], name: str) -> str:
    keys = ("formula", "chance", "undefined", "endpoints", "imputer", "steps", "space", "ties",
            "source", "differs")  # fmt: skip
    facts = {key: metric[key] for key in keys if metric[key]}
    set_to = ", ".join(f"{k}={v}" for k, v in metric["settings"].items())
    facts = {**facts, **({"settings": set_to} if set_to else {})}
    drawn = [figures.means(summary, metric, splits, name)]
    if metric["curve"] and any(metric["curve"][split] for split in splits):
        drawn.insert(0, figures.curves(summary, metric, splits, name))
    pictures = "".join(f'<figure class="chart">{each}</figure>' for each in drawn)
    tables = "".join(_grid(files.detail(metric, split), "h3") for split in splits)
    return (
        f'<h2 id="{name}">{escape(metric["label"])}</h2><p>{escape(_sentence(metric["summary"]))} '
        f"{escape(_firsts(metric, splits))}</p>"
        f'<div class="charts">{pictures}</div>'
        f"<details><summary>Card, and paired differences</summary>{render.facts(facts)}{tables}"
        "</details>"
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith("?") else ".")


def _firsts(metric: Summary, splits: Sequence[str]) -> str:
    told = [
        f"{files.where(split).capitalize()}: {summary_text.best(metric, split)}."
        for split in splits
    ]
    return " ".join(told) if metric["better"] != "neither" else f"{summary_text.best(metric, '')}."


def _made_with(summary: Summary) -> dict[str, str]:
    asked = {k: summary["order"][k] for k in ("images", "batch_size", "device", "dtype")}
    took = {"seconds": summary["seconds"]}
    return {k: str(v) for k, v in {**summary["environment"], **asked, **took}.items()}
