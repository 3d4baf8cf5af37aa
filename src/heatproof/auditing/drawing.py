"""Draw a finding's figure as SVG, and the parts that several checks' figures share."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from heatproof.auditing.base import AuditCheck, Finding, checks
from heatproof.errors import HeatproofError
from heatproof.extras import MissingExtra
from heatproof.plots import chart
from heatproof.plots.chart import IntervalPoint
from heatproof.plots.style import chart_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Where an exact zero stands on a log axis: below every rounding.
LOWEST = 1e-17


class FigureError(HeatproofError):
    """A figure cannot be drawn from its numbers; the text says why."""


def has_figure(check: type[AuditCheck]) -> bool:
    """Say whether a check draws its numbers."""
    return check.figure is not AuditCheck.figure


def draw(finding: Finding) -> str:
    """Return SVG; an empty text where the check has no figure, or the finding no numbers.

    Raises:
        FigureError: matplotlib is not installed; the numbers have another layout (of another
            version, say), or hold nothing.
    """
    kind = next((check for check in checks() if check.card.name == finding.id), None)
    if kind is None or not has_figure(kind) or not finding.numbers:
        return ""
    try:
        with chart_style():
            figure = kind().figure(finding.numbers)
        if figure is None:
            raise FigureError("nothing in its numbers can be drawn")
        return chart.svg(figure, finding.id, f"{finding.check}: {finding.verdict}")
    except MissingExtra as error:
        raise FigureError(str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        layout = f"its numbers have another layout ({type(error).__name__}: {error})"
        raise FigureError(layout) from error


def bare(point: IntervalPoint) -> IntervalPoint:
    """Return the value without its interval."""
    return replace(point, low=point.value, high=point.value)


def reference(axes: "Axes", kind: str, *, x: float | None = None, y: float | None = None) -> None:
    """Draw a dashed line across the panel, upright at `x` or level at `y`."""
    line = axes.axvline(x) if x is not None else axes.axhline(y or 0)
    line.set(color=chart.RIVAL, linestyle="--", linewidth=1)
    line.set_gid(chart.gid(kind))


def against_limits(
    rows: Mapping[str, tuple[float | None, float]], label: str, controls: Sequence[str] = ()
) -> "Figure | None":
    """Draw a value and its limit per row, on a log axis; `controls` have no limit to keep."""
    if not rows:
        return None
    figure, (axes,) = chart.new_chart(len(rows))
    chart.label_rows(axes, list(rows))
    known = [value for value, _ in rows.values() if value is not None]
    chart.set_log_axis(axes, [*known, *(limit for _, limit in rows.values())], LOWEST)
    for row, (name, (value, limit)) in enumerate(rows.items()):
        chart.tick(axes, limit, row)
        if value is None:
            axes.text(LOWEST, row, "no finite number", color=chart.LIMIT, va="center")
            continue
        shown = max(value, LOWEST)
        point = IntervalPoint(shown, shown, shown)
        if name in controls:
            chart.dot(axes, point, row, chart.RIVAL, "s", "control")
        else:
            chart.dot(axes, point, row, chart.OURS if value <= limit else chart.LIMIT)
        left = limit / 1e3 < shown <= limit  # there is no room between the point and its limit
        axes.annotate(
            "0" if value == 0 else f"{value:.2g}",
            (shown, row),
            (-6 if left else 6, 0),
            textcoords="offset points",
            va="center",
            ha="right" if left else "left",
            fontsize=9,
        )
    axes.set_xlabel(label)
    kinds = [("measured", chart.OURS, "o"), ("limit", chart.LIMIT, "-")]
    chart.legend(axes, [*kinds, ("controls", chart.RIVAL, "s")] if controls else kinds)
    return figure
