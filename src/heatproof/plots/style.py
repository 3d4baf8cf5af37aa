"""One style for every chart. matplotlib is optional, and imported when the first one is drawn."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from heatproof import extras

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

INK, FAINT, LINE = "#1b1b1f", "#5f6068", "#dcdce2"
OURS, RIVAL, ORACLE, LIMIT = "#1f5fa8", "#8a8b94", "#b86200", "#a3123a"
SERIES = (OURS, ORACLE, "#2f7d4f", "#a3195b", "#5b3fa0", "#0e8a93")
STYLE: "dict[RcKeyType, Any]" = {
    "svg.fonttype": "none",  # letters stay text: they can be searched and read out
    "svg.hashsalt": "heatproof",  # the same ids, and so the same bytes, for the same chart
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
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


@contextmanager
def chart_style(**changes: Any) -> Generator[None]:
    """Draw and save charts inside; the user's own matplotlib settings come back afterwards.

    Args:
        changes: rc parameters that differ here, dots written as two underscores (`font__size=9`).

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    extras.require("report")
    import matplotlib as mpl

    own: dict[RcKeyType, Any] = {name.replace("__", "."): value for name, value in changes.items()}  # pyright: ignore[reportAssignmentType]
    with mpl.rc_context(STYLE | own):
        yield
