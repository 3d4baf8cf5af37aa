"""One picture for each check of an audit, as SVG, from the finding's numbers alone."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from textwrap import fill

import matplotlib as mpl
from matplotlib.figure import Figure

from heatproof.auditing.base import Finding
from heatproof.auditing.follow_figures import (
    attribution_error,
    graded_family,
    moved,
    null_prompts,
    right_wrong,
    sign,
)
from heatproof.errors import HeatproofError
from heatproof.plots.chart import (
    INK,
    LIMIT,
    OURS,
    RIVAL,
    STYLE,
    Numbers,
    Spot,
    bar,
    card,
    dot,
    kind_of,
    label_rows,
    legend,
    logarithmic,
    number,
    spot,
    svg,
    tick,
)

FLOOR = 1e-17
"""Where an exact zero is drawn on a log axis: below every rounding."""


class Undrawn(HeatproofError):
    """A figure that cannot be drawn from its numbers; the text says why."""


def drawn(finding: Finding) -> str:
    """SVG; nothing where the check has no figure, or its numbers hold none.

    Raises:
        Undrawn: the numbers are of another layout (another version's, say), or hold nothing.
    """
    draw = FIGURES.get(finding.check)
    if draw is None or not finding.numbers:
        return ""
    try:
        with mpl.rc_context(STYLE):
            figure = draw(finding.numbers)
        if figure is None:
            raise Undrawn("nothing in its numbers can be drawn")
        name = "".join(c if c.isalnum() else "-" for c in finding.check)
        return svg(figure, name, escape(f"{finding.check}: {finding.verdict}"))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        told = f"its numbers have another layout ({type(error).__name__}: {error})"
        raise Undrawn(told) from error


_ELSE = " (function moves)"


# --- principle 1 ------------------------------------------------------------------------------


def parity(numbers: Numbers) -> Figure | None:
    """Gap and limit, a row a side and dtype."""
    cells = {
        f"{side}, {dtype}": cell
        for side, by_dtype in numbers["sides"].items()
        for dtype, cell in by_dtype.items()
    }
    gaps = {name: (number(each["gap"]), float(each["limit"])) for name, each in cells.items()}
    return _against_limits(
        gaps, "largest gap between the explained score and the untouched one (log)"
    )


def reparametrisation(numbers: Numbers) -> Figure | None:
    """Change of the map, a row a change of the weights, beside rounding and the control."""
    limit = float(numbers["map limit"])
    moved = {
        f"{name}{'' if each['function preserved'] else _ELSE}": each["map"]
        for name, each in numbers["changes"].items()
        if each
    }
    if not moved:
        return None
    # Where the function moves too, a map that moves breaks nothing.
    others = {
        **{name: moved.pop(name) for name in list(moved) if name.endswith(_ELSE)},
        "rounding": numbers["rounding"]["map"],
        "control: another function": numbers["control"]["map"],
    }
    rows = {name: (number(value), limit) for name, value in (moved | others).items()}
    return _against_limits(rows, "relative change of the map (log)", rivals=tuple(others))


def _against_limits(
    rows: Mapping[str, tuple[float | None, float]], told: str, rivals: Sequence[str] = ()
) -> Figure | None:
    if not rows:
        return None
    figure, (axes,) = card(len(rows))
    label_rows(axes, list(rows))
    known = [value for value, _ in rows.values() if value is not None]
    logarithmic(axes, [*known, *(limit for _, limit in rows.values())], FLOOR)
    for row, (name, (value, limit)) in enumerate(rows.items()):
        tick(axes, limit, row)
        rival = name in rivals
        colour = RIVAL if rival else OURS if value is not None and value <= limit else LIMIT
        if value is None:
            axes.text(FLOOR, row, "no finite number", color=LIMIT, va="center")
            continue
        at = max(value, FLOOR)
        dot(axes, Spot(at, at, at), row, colour, "s" if rival else "o", "control" if rival else "")
        told_value = "0" if value == 0 else f"{value:.2g}"
        before = limit / 1e3 < at <= limit  # between the point and its limit is no room
        axes.annotate(
            told_value,
            (at, row),
            (-6 if before else 6, 0),
            textcoords="offset points",
            va="center",
            ha="right" if before else "left",
            fontsize=9,
        )
    axes.set_xlabel(told)
    kinds = [("measured", OURS, "o"), ("limit", LIMIT, "-")]
    legend(axes, [*kinds, ("controls", RIVAL, "s")] if rivals else kinds)
    return figure


def implied_model(numbers: Numbers) -> Figure | None:
    """Accuracy of your model and of those in its place, and how near their embeddings are."""
    models: dict[str, Numbers] = numbers["models"]
    if not models:
        return None
    named = {"your model": numbers.get("yours", {}), **{f"with {k}": v for k, v in models.items()}}
    right = {name: spot(each.get("accuracy")) for name, each in named.items()}
    labelled = any(right.values())
    figure, panels = card(len(named), 2 if labelled else 1)
    rows = [fill(name, 30) for name in named]
    if labelled:
        label_rows(panels[0], rows)
        for row, found in enumerate(right.values()):
            if found is not None:
                bar(panels[0], row, found, INK if row == 0 else OURS)
        chance = number(numbers["yours"]["accuracy"].get("chance"))
        if chance is not None:
            panels[0].axvline(chance, color=RIVAL, linestyle="--").set_gid(kind_of("chance"))
            legend(panels[0], [("chance", RIVAL, "--")])
        panels[0].set_xlim(0, 1)
        panels[0].set_xlabel("accuracy")
    label_rows(panels[-1], [""] * len(rows) if labelled else rows)
    for row, each in enumerate(named.values()):
        mean = 1.0 if row == 0 else number(each["embedding cosine"])
        if mean is not None:
            low = number(each.get("lowest embedding cosine", mean))
            found = Spot(mean, mean if low is None else low, mean)
            dot(panels[-1], found, row, name="yours" if row == 0 else "ours")
    panels[-1].axvline(1, color=RIVAL, linestyle="--")
    panels[-1].set_xlabel(
        "cosine to your embedding" if labelled else "cosine to your model's embedding"
    )
    return figure


FIGURES: dict[str, Callable[[Numbers], Figure | None]] = {
    "parity": parity,
    "reparametrisation": reparametrisation,
    "implied model": implied_model,
    "graded family": graded_family,
    "moved model, unmoved map": moved,
    "right and wrong": right_wrong,
    "null prompts": null_prompts,
    "sign": sign,
    "attribution error": attribution_error,
}
