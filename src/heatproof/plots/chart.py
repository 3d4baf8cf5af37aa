"""Charts of rows: points and bars with their intervals, as SVG. Draw inside `style.chart_style`."""

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heatproof.plots.style import (
    FAINT,
    INK,
    LIMIT,
    ORACLE,
    OURS,
    RIVAL,
    chart_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Number = int | float
Numbers = Mapping[str, Any]
WIDTH = 7.0  # inches; 700 pixels at 100 to the inch
ROW = 0.34  # inches of a row


@dataclass(frozen=True)
class IntervalPoint:
    """A measured value and its interval; without one, both ends are the value."""

    value: float
    low: float
    high: float

    @property
    def bars(self) -> list[list[float]]:
        """The lengths below and above, as error bars take them."""
        return [[max(0.0, self.value - self.low)], [max(0.0, self.high - self.value)]]


def point(estimate: Any) -> IntervalPoint | None:
    """Return a number, or {"value", "low", "high"}, as a point; None where it is not finite."""
    if isinstance(estimate, Mapping):
        parts: Mapping[str, Any] = estimate  # pyright: ignore[reportUnknownVariableType]
        value = finite(parts["value"])
        ends = [finite(parts.get("low")), finite(parts.get("high"))]
    else:
        value, ends = finite(estimate), [None, None]
    if value is None:
        return None
    low, high = (value if end is None else end for end in ends)
    return IntervalPoint(value, low, high)


def finite(value: Any) -> float | None:
    """Return a number as a float; None for NaN, infinity, and what is no number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) else None


def new_chart(rows: Number, panels: int = 1) -> "tuple[Figure, list[Axes]]":
    """Return a figure with panels side by side, high enough for so many rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 1.15 + ROW * rows), layout="constrained", facecolor="white")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def gid(name: str) -> str:
    """Return an artist's gid that `svg` turns into data-kind, which several artists may share."""
    return f"~{name}"


def label_rows(axes: "Axes", names: Sequence[str]) -> None:
    """Label the rows, the first on top."""
    axes.set_yticks(range(len(names)), names)
    # Downwards: the first row is 0, on top.
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def dot(
    axes: "Axes",
    x: IntervalPoint,
    y: IntervalPoint | Number,
    colour: str = OURS,
    marker: str = "o",
    name: str = "",
) -> None:
    """Draw a point with its intervals; `name` is its kind, kept in the SVG."""
    up = y.bars if isinstance(y, IntervalPoint) else None
    at = y.value if isinstance(y, IntervalPoint) else y
    # Controls are hollow, so that they differ without colour too.
    hollow = colour in (RIVAL, ORACLE)
    axes.errorbar(
        [x.value],
        [at],
        xerr=x.bars,
        yerr=up,
        fmt=marker,
        color=colour,
        markerfacecolor="white" if hollow else colour,
        markersize=6,
        elinewidth=1,
        capsize=0,
    )[0].set_gid(gid(name or "ours"))


def bar(
    axes: "Axes", row: Number, point: IntervalPoint, colour: str = OURS, height: float = 0.6
) -> None:
    """Draw a bar from 0, with its interval."""
    bars = axes.barh([row], [point.value], height=height, color=colour, alpha=0.85)
    bars.patches[0].set_gid(gid("bar"))
    axes.errorbar(
        [point.value], [row], xerr=point.bars, fmt="none", ecolor=INK, elinewidth=1, capsize=2
    )


def note(axes: "Axes", row: Number, text: str) -> None:
    """Write words in the middle of a row that has no point."""
    across = axes.get_yaxis_transform()
    axes.text(0.5, row, text, transform=across, ha="center", va="center", fontsize=8, color=FAINT)


def tick(axes: "Axes", x: float, row: Number, colour: str = LIMIT, name: str = "limit") -> None:
    """Draw a short upright line across one row."""
    axes.plot([x, x], [row - 0.35, row + 0.35], color=colour, linewidth=2)[0].set_gid(gid(name))


def set_log_axis(axes: "Axes", values: Sequence[float], floor: float) -> None:
    """Set a log axis; values below `floor` are drawn at it, since 0 has no logarithm."""
    top = max([*values, floor * 10])
    axes.set_xscale("log")
    axes.set_xlim(floor / 3, top * 5)
    first, last = math.ceil(math.log10(floor)), math.floor(math.log10(top * 5))
    step = max(1, (last - first) // 6)  # about six labels fit
    shown = list(range(first, last + 1, step))
    axes.set_xticks([10.0**power for power in shown], [f"1e{power:+d}" for power in shown])
    axes.minorticks_off()


def legend(axes: "Axes", kinds: Sequence[tuple[str, str, str]]) -> None:
    """Name (name, colour, marker) above the panel; a marker may be "bar" or a kind of line."""
    for name, colour, marker in kinds:
        if marker == "bar":
            axes.bar([math.nan], [math.nan], color=colour, alpha=0.85, label=name)
        elif marker in ("-", "--"):
            axes.plot([], [], color=colour, linestyle=marker, linewidth=2, label=name)
        else:
            face = colour if colour == OURS else "white"  # as `dot` draws them
            axes.plot([], [], marker, color=colour, markerfacecolor=face, label=name)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=min(len(kinds), 4),
        fontsize=9,
        handletextpad=0.4,
        columnspacing=1.2,
        borderaxespad=0.2,
    )


def svg(figure: "Figure", name: str, label: str) -> str:
    """Return a figure as SVG: the same text for the same figure.

    `name` keeps its ids apart from those of other figures on the page, `label` says in words what
    it shows (a screen reader reads it out).
    """
    buffer = io.StringIO()
    metadata = {**dict.fromkeys(("Date", "Creator", "Format", "Type")), "Title": label}
    with chart_style(svg__hashsalt=name), warnings.catch_warnings():
        # A letter that the measuring font lacks is no reason to fail: browsers have another.
        warnings.simplefilter("ignore")
        figure.savefig(buffer, format="svg", metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace("<svg", '<svg role="img"', 1)
    # The title stays, its second copy in RDF goes.
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace('id="~', 'data-kind="')
    for mark in (' id="', 'href="#', "url(#"):
        text = text.replace(mark, f"{mark}{name}-")
    return text.strip()
