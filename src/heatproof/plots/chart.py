"""What the pictures of an audit are made of: a card of SVG, and rows of points or bars on it."""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

Number = int | float
Numbers = Mapping[str, Any]
INK, FAINT, LINE = "#1b1b1f", "#5f6068", "#dcdce2"
OURS, RIVAL, FOLLOWER, LIMIT = "#1f5fa8", "#8a8b94", "#b86200", "#a3123a"
WIDTH = 7.0  # inches; 700 pixels at 100 to the inch
ROW = 0.34  # inches of a row
STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # names of models and layers are no formulas
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": LINE,
    "xtick.color": FAINT,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


@dataclass(frozen=True)
class Spot:
    """A measured value and its interval; without one, both ends are the value."""

    value: float
    low: float
    high: float

    @property
    def bars(self) -> list[list[float]]:
        """Lengths below and above, as error bars take them."""
        return [[max(0.0, self.value - self.low)], [max(0.0, self.high - self.value)]]


def spot(found: Any) -> Spot | None:
    """A number or {"value", "low", "high"}; None where it is no finite number."""
    if isinstance(found, Mapping):
        parts: Mapping[str, Any] = found  # pyright: ignore[reportUnknownVariableType]
        value = number(parts["value"])
        ends = [number(parts.get("low")), number(parts.get("high"))]
    else:
        value, ends = number(found), [None, None]
    if value is None:
        return None
    low, high = (value if end is None else end for end in ends)
    return Spot(value, low, high)


def number(found: Any) -> float | None:
    """None for what is no number, NaN and infinity."""
    if not isinstance(found, (int, float)) or isinstance(found, bool):
        return None
    return float(found) if math.isfinite(found) else None


def card(rows: Number, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, high enough for so many rows."""
    figure = Figure(figsize=(WIDTH, 1.15 + ROW * rows), layout="constrained", facecolor="white")
    found = figure.subplots(1, panels, squeeze=False)
    return figure, list(found[0])


def kind_of(name: str) -> str:
    """As an artist's gid: its kind, which several artists may share, stands as data-kind."""
    return f"~{name}"


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """One row a name, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=LINE, linewidth=0.6)


def dot(
    axes: Axes, x: Spot, y: Spot | Number, colour: str = OURS, marker: str = "o", name: str = ""
) -> None:
    """A point with its intervals; `name` is its kind, kept in the SVG."""
    up = y.bars if isinstance(y, Spot) else None
    at = y.value if isinstance(y, Spot) else y
    hollow = colour in (RIVAL, FOLLOWER)
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
    )[0].set_gid(kind_of(name or "ours"))


def bar(axes: Axes, row: Number, found: Spot, colour: str = OURS, height: float = 0.6) -> None:
    """A bar from 0, with its interval."""
    drawn = axes.barh([row], [found.value], height=height, color=colour, alpha=0.85)
    drawn.patches[0].set_gid(kind_of("bar"))
    axes.errorbar(
        [found.value], [row], xerr=found.bars, fmt="none", ecolor=INK, elinewidth=1, capsize=2
    )


def note(axes: Axes, row: Number, text: str) -> None:
    """Words in the middle of a row that has no point."""
    across = axes.get_yaxis_transform()
    axes.text(0.5, row, text, transform=across, ha="center", va="center", fontsize=8, color=FAINT)


def tick(axes: Axes, x: float, row: Number, colour: str = LIMIT, name: str = "limit") -> None:
    """A short upright line across one row."""
    axes.plot([x, x], [row - 0.35, row + 0.35], color=colour, linewidth=2)[0].set_gid(kind_of(name))


def logarithmic(axes: Axes, values: Sequence[float], floor: float) -> None:
    """A log axis over values that are raised to `floor` where they lie below."""
    top = max([*values, floor * 10])
    axes.set_xscale("log")
    axes.set_xlim(floor / 3, top * 5)
    first, last = math.ceil(math.log10(floor)), math.floor(math.log10(top * 5))
    step = max(1, (last - first) // 6)
    shown = list(range(first, last + 1, step))
    axes.set_xticks([10.0**power for power in shown], [f"1e{power:+d}" for power in shown])
    axes.minorticks_off()


def legend(axes: Axes, kinds: Sequence[tuple[str, str, str]]) -> None:
    """(name, colour, marker) above the panel; a marker may be "bar" or a kind of line."""
    for name, colour, marker in kinds:
        if marker == "bar":
            axes.bar([math.nan], [math.nan], color=colour, alpha=0.85, label=name)
        elif marker in ("-", "--"):
            axes.plot([], [], color=colour, linestyle=marker, linewidth=2, label=name)
        else:
            face = colour if colour == OURS else "white"
            axes.plot([], [], marker, color=colour, markerfacecolor=face, label=name)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=min(len(kinds), 4),
        frameon=False,
        fontsize=9,
        handletextpad=0.4,
        columnspacing=1.2,
        borderaxespad=0.2,
    )


def svg(figure: Figure, name: str, told: str) -> str:
    """The same text for the same figure; `name` keeps its ids apart from those of other figures,
    `told` says in words what it shows."""
    buffer = io.StringIO()
    undated = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # A letter that the measuring font lacks is no reason to fail: browsers have another.
        warnings.simplefilter("ignore")
        figure.savefig(buffer, format="svg", metadata=undated)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = text.replace('id="~', 'data-kind="')
    for mark in (' id="', 'href="#', "url(#"):
        text = text.replace(mark, f"{mark}{name}-")
    return text.replace("<svg", f'<svg role="img" aria-label="{told}"', 1).strip()
