"""The values of which_method.md, and its picture: quality against cost."""

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from heatproof.plots.chart import legend, svg
from heatproof.plots.style import FAINT, OURS, RIVAL, chart_style

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "benchmarks" / "default.py"
sys.path.append(str(SOURCE.parent))

import default_rule as rule  # noqa: E402  # pyright: ignore

PURPOSES = ("default", "fast")
PROMPTS = ("1", "10", "100", "1000")
Row = dict[str, Any]


def which_method(results: Callable[[str], Any]) -> dict[str, Any]:
    """Return the values of which_method.md; draw its picture."""
    study = results("which_method")
    (DOCS / "which-method.svg").write_text(_picture(study) + "\n")
    images = ", ".join(f"{count} on `{model}`" for model, count in study["images"].items())
    return {
        "setting": f"Measured {study['date']} by `benchmarks/default.py`: {images}; "
        f"{study['hardware']}.",
        "names": [
            [
                f"`{purpose}`",
                *(_names(study["chosen"][side][purpose]) for side in ("image", "text")),
            ]
            for purpose in PURPOSES
        ],
        "remarks": _remarks(study["chosen"]),
        "image": _quality(study, "image"),
        "text": _quality(study, "text"),
        "gates": _gates(study),
        "cost": _cost(study),
        "costed": study["costed"],
        "rule": _rule(),
    }


def _names(chosen: Row) -> str:
    return ", then ".join(f"`{name}`" for name in chosen["methods"])


def _remarks(chosen: Row) -> list[str]:
    """Say which gates were dropped, and which were not measured."""
    lines: list[str] = []
    for side, of_side in chosen.items():
        for purpose in PURPOSES:
            for name, failed in of_side[purpose]["fails"].items():
                if failed:
                    lines.append(
                        f"`{purpose}`, {side} side: chosen although it does not pass all gates. "
                        f"`{name}` does not pass: {', '.join(failed)}."
                    )
            for name, unknown in of_side[purpose]["not measured"].items():
                if unknown:
                    lines.append(
                        f"`{purpose}`, {side} side: not measured of `{name}`: {', '.join(unknown)}."
                    )
    return lines


def _sorted(study: Row, side: str) -> list[tuple[str, Row]]:
    """Return the methods that were measured, best first by the side's first column."""
    column, better = next(iter(study[side]["columns"].items()))
    sign = -1 if better == "higher" else 1
    rows = [(name, row) for name, row in study[side]["methods"].items() if row["columns"]]
    return sorted(rows, key=lambda row: sign * (_value(row[1], column) or 0.0))


def _value(row: Row, column: str) -> float | None:
    return next(iter(row["columns"].values())).get(column, {}).get("value")


def _quality(study: Row, side: str) -> Row:
    columns = study[side]["columns"]
    ranks = study["chosen"][side]["default"]["ranks"]
    rows: list[list[str]] = []
    for name, row in _sorted(study, side):
        first = next(iter(row["columns"].values()))
        marks = [one.get("over controls") == "better" for one in first.values()]
        cells = [_figure(first.get(column)) for column in columns]
        cells += [f"{sum(marks)} of {len(marks)}"] if side == "image" else []
        cells.append(f"{ranks[name]:.1f}" if name in ranks else "-")
        rows.append([f"`{name}`", *cells])
    heads = [f"{_short(c)} {'↑' if better == 'higher' else '↓'}" for c, better in columns.items()]
    beside = ["better than controls"] if side == "image" else []
    return {"head": ["method", *heads, *beside, "mean rank"], "rows": rows}


def _short(column: str) -> str:
    words = [w for w in column.split() if not w.startswith("steps=")]
    name, *rest = (w.removeprefix("imputer=") for w in words)
    return f"{name.upper()} {rest[0] if rest else 'mean'}" if name in ("srg", "mif") else column


def _figure(found: Row | None) -> str:
    if found is None or found["value"] is None:
        return "-"
    if found["low"] is None or found["high"] is None:
        return f"{found['value']:.2f}"
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _gates(study: Row) -> Row:
    rows: list[list[str]] = []
    text = study["text"]["methods"]
    for name, row in _sorted(study, "image"):
        gates = rule.gates_of(row, study["image"], "image")
        cells = [_mark(gates[gate]) for gate in rule.GATES]
        of_text = text.get(name)
        pairs = rule.tells_pairs(of_text, study["text"]) if of_text and of_text["columns"] else None
        refused = row["certificate"]["refused"] if row["certificate"] else None
        rows.append(
            [f"`{name}`", *cells, _mark(pairs), "-" if refused is None else str(len(refused))]
        )
    return {"head": ["method", *rule.GATES, "pairs (words)", "refuses"], "rows": rows}


def _mark(passes: bool | None) -> str:
    return "-" if passes is None else "yes" if passes else "no"


def _cost(study: Row) -> Row:
    rows: list[list[str]] = []
    for side in ("image", "text"):
        for name, row in _sorted(study, side):
            prompts = row.get("cost", {}).get("prompts", {})
            if not prompts:
                continue
            passes = [f"{prompts[n]['passes']:.1f}" if n in prompts else "-" for n in PROMPTS]
            first, last = (prompts[n] for n in (next(iter(prompts)), list(prompts)[-1]))
            memory = f"{first['MiB']:.0f}, {last['MiB']:.0f}"
            rows.append([f"`{name}`", side, *passes, f"{first['seconds']:.2f}", memory])
    head = ["method", "side", *(f"{int(n):,}" for n in PROMPTS), "seconds", "MiB"]
    return {"head": head, "rows": rows}


def _rule() -> str:
    """Return the rule from the script's own docstring."""
    text = ast.get_docstring(ast.parse(SOURCE.read_text("utf-8"))) or ""
    return text[text.index("**Measured.**") :]


def _picture(study: Row) -> str:
    from matplotlib.figure import Figure

    column = next(iter(study["image"]["columns"]))
    with chart_style():
        figure = Figure(figsize=(9, 4.6), layout="constrained", facecolor="white")
        for axes, prompts in zip(figure.subplots(1, 2, sharey=True), (1, 100), strict=True):
            for name, row in _sorted(study, "image"):
                price = rule.price(row, prompts)
                value = _value(row, column)
                if price == float("inf") or value is None:
                    continue
                colour = OURS if rule.certificate_holds(row) else RIVAL
                face = colour if colour == OURS else "white"
                axes.plot([price], [value], "o", color=colour, markerfacecolor=face, markersize=6)
                axes.annotate(
                    name,
                    (price, value),
                    (5, 3),
                    textcoords="offset points",
                    fontsize=7,
                    color=FAINT,
                )
            axes.set_xscale("log")
            axes.set_xticks([1, 10, 100], ["1", "10", "100"])
            axes.minorticks_off()
            axes.margins(x=0.25)
            axes.axhline(0, color=FAINT, linewidth=0.6)
            axes.set_xlabel(f"bare forward passes, {prompts} prompt{'s' * (prompts > 1)}")
            axes.grid(visible=True)
            if prompts == 1:
                axes.set_ylabel("SRG")
                legend(axes, [("certificate holds", OURS, "o"), ("fails", RIVAL, "o")])
        return svg(figure, "which-method", "SRG of every method against its cost")


PAGES = (which_method,)
