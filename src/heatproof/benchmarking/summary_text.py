"""A benchmark in a few sentences, none of which says more than the statistics do."""

from collections.abc import Mapping, Sequence
from typing import Any

from heatproof.statistics import FEWEST

LEGEND = (
    "Means with 95 % intervals over images. ▲ better than every control of that column, ▼ worse "
    f"than at least one. No mark: no difference can be claimed; below {FEWEST} images none is."
)
MARKS = {"better": "▲", "worse": "▼", "no difference": "", "too few": "", "not ranked": ""}
UNMEASURED = "not measured"
Summary = Mapping[str, Any]


def own(summary: Summary) -> list[str]:
    """Return the labels of the methods that are no controls."""
    return [method["label"] for method in summary["methods"] if not method["control"]]


def ranked(summary: Summary) -> list[Any]:
    """Return the metrics in which one method can be better than another."""
    return [metric for metric in summary["metrics"] if metric["better"] != "neither"]


def split_of(summary: Summary) -> str:
    """Return where methods are compared first: where the model is right, if that is known."""
    return "unknown" if summary["unknown"] else "right"


def row_of(metric: Summary, split: str, method: str) -> Any:
    """Return the method's row, or None."""
    rows = metric["tables"].get(split, [])
    return next((row for row in rows if row["method"] == method), None)


def wins(summary: Summary, method: str, split: str) -> int:
    """Count the ranked metrics in which the method is better than every control."""
    rows = [row_of(metric, split, method) for metric in ranked(summary)]
    return sum(
        row is not None and row["over_control"] is not None
        and row["over_control"]["verdict"] == "better"
        for row in rows
    )  # fmt: skip


def ordered(summary: Summary) -> list[str]:
    """Return methods by the number of their wins; the controls behind them."""
    split, mine = split_of(summary), own(summary)
    controls = [entry["label"] for entry in summary["methods"] if entry["control"]]
    return [*sorted(mine, key=lambda name: -wins(summary, name, split)), *controls]


def headline(summary: Summary) -> list[str]:
    """Say what was asked, and how many methods are better than every control."""
    images, items = summary["pictures"], summary["items"]
    asked = f"model {summary['model']}, data {summary['data']}: {items} of {images} images used"
    if summary["unknown"]:
        lines = [f"{asked}; whether the model is right is not known: not all objects are listed"]
    else:
        lines = [f"{asked}, the model right on {summary['right']}, wrong on {summary['wrong']}"]
    split, count = split_of(summary), len(ranked(summary))
    if summary[split] < summary["fewest"]:
        return [*lines, f"no claims: {too_few(summary, split)}"]
    mine = [m for m in own(summary) if any(row_of(e, split, m) for e in summary["metrics"])]
    all_won = [name for name in mine if count and wins(summary, name, split) == count]
    where = "" if split == "unknown" else " where the model is right"
    lines.append(
        f"better than every control in all {count} ranked metrics{where}: "
        f"{len(all_won)} of {len(mine)} methods" + (f" ({_some(all_won)})" if all_won else "")
    )
    none_won = [name for name in mine if count and not wins(summary, name, split)]
    if none_won:
        lines.append(f"better than every control in none of them: {_some(none_won)}")
    return lines


def too_few(summary: Summary, split: str) -> str:
    """Say why a table has no marks."""
    where = "" if split == "unknown" else f" where the model is {split}"
    return (
        f"{summary[split]} images{where}; at least {summary['fewest']} are needed to compare "
        "methods"
    )


def compared(summary: Summary) -> str:
    """Say how many comparisons the marks rest on, and how many marks chance alone would set."""
    counts = summary["comparisons"]
    # Two-sided at 5 %: of twenty comparisons without a difference one is marked.
    chance = counts["over_control"] / 20
    return (
        f"Comparisons: {counts['over_control']} with the controls, each tested at 5 % for itself "
        f"(were there no difference anywhere, up to {chance:.0f} would be marked by chance); "
        f"{counts['over_next']} with the next method and {counts['over_first']} with the first "
        "one, corrected within each table for all neighbours and for all pairs (Holm)."
    )


def best(metric: Summary, split: str) -> str:
    """Say in words what the metric's first row claims."""
    rows = [row for row in metric["tables"].get(split, []) if row["mean"]["value"] is not None]
    if metric["better"] == "neither":
        return "not ranked: neither direction is better"
    if not rows:
        return UNMEASURED
    first, *others = rows
    leader = f"first: {first['method']} {interval(first['mean'])}"
    verdicts = {row["method"]: row["over_first"]["verdict"] for row in others}
    if "too few" in verdicts.values():
        return f"{leader}; too few images to claim that it is"
    # First by value is no claim unless every other method is worse.
    like = [name for name, verdict in verdicts.items() if verdict != "worse"]
    if like:
        return f"{leader}, no significant difference from {_some(like, 3)}"
    return f"{leader}, better than every other method" if others else leader


def stable(summary: Summary) -> list[str]:
    """Say how far rankings agree across imputers, a line per metric."""
    lines: list[str] = []
    for metric in dict.fromkeys(pair["metric"] for pair in summary["stability"]):
        pairs = [pair for pair in summary["stability"] if pair["metric"] == metric]
        imputers = list(dict.fromkeys(n for pair in pairs for n in (pair["one"], pair["other"])))
        lowest: list[str] = []
        for split in dict.fromkeys(pair["split"] for pair in pairs):
            known = [p for p in pairs if p["split"] == split and p["value"] is not None]
            if known:
                low = min(known, key=lambda p: p["value"])
                where = "" if split == "unknown" else f", model {split}"
                lowest.append(f"{interval(low, 2)} ({low['one']} / {low['other']}{where})")
        if lowest:
            lines.append(
                f"{metric}: rankings of methods under {', '.join(imputers)} agree; lowest "
                f"Kendall's tau {' and '.join(lowest)}"
            )
    if not lines and summary["metrics"]:
        lines.append(
            "rank stability across imputers: not measured; it needs a metric under two imputers, "
            "such as --metrics srg,srg:imputer=blur"
        )
    return lines


def interval(estimate: Summary, digits: int = 3) -> str:
    """Format a value and its interval: "0.123 [0.101, 0.145]"."""
    if estimate["value"] is None:
        return UNMEASURED
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['value'] + 0.0:.{digits}f} [no interval]"
    # Adding 0.0 turns -0.0 into 0.0.
    numbers = (estimate[key] for key in ("value", "low", "high"))
    value, low, high = (f"{number + 0.0:.{digits}f}" for number in numbers)
    return f"{value} [{low}, {high}]"


def mark(row: Any) -> str:
    """Return ▲ where the method is better than every control, ▼ where it is worse than one."""
    over = None if row is None else row["over_control"]
    return "" if over is None else MARKS[over["verdict"]]


def _some(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
