"""The figure of the order-free causes: each cause's share of each gap, images and captions."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from heatproof.evaluation.store import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = (
    "How much of the gap between the published map and the model's own attention-times-gradient "
    "map each cause explains: its Shapley value over all orders in which causes can be switched "
    "on, with 95 % intervals over {side}. The shares add up to the gap of the published map, in "
    "the title. Right of zero: the cause makes the map worse, or moves it further away."
)
TITLES = {
    "choice": "lost quality: choice",
    "pointing": "lost quality: pointing",
    "agreement with removal": "lost agreement with word removal",
    "distance": "distance (1 - rank correlation)",
}
COLORS = {"distance": "#0072b2"}


def gap_figures(sections: dict[str, Part | None]) -> "Iterator[tuple[str, str, Figure]]":
    """Yield name, caption and figure of each side that was measured."""
    for name, side in (("c gap", "images"), ("c gap text", "captions")):
        data = sections.get(name)
        if data is not None and data.get("gaps"):
            yield name.replace(" ", "-"), CAPTION.format(side=side), _shares(data)


def _shares(data: Part) -> "Figure":
    from matplotlib.figure import Figure

    causes = list(data["causes"])
    figure = Figure(figsize=(3.1 * len(data["gaps"]) + 1.6, 0.34 * len(causes) + 1.2))
    axes: Any = figure.subplots(1, len(data["gaps"]), sharey=True, squeeze=False)[0]
    for n, (name, gap) in enumerate(data["gaps"].items()):
        _bars(axes[n], gap["shares"], causes, COLORS.get(name, "#c1272d"))
        axes[n].set_title(f"{TITLES[name]}\npublished: {gap['published']['value']:+.3f}")
    axes[0].set_yticks(range(len(causes)), causes)
    axes[0].invert_yaxis()
    figure.tight_layout()
    return figure


def _bars(axes: "Axes", shares: Part, causes: list[str], color: str) -> None:
    values = [shares[cause]["value"] for cause in causes]
    axes.barh(range(len(causes)), values, color=color, alpha=0.75, height=0.6)
    for place, cause in enumerate(causes):
        share = shares[cause]
        # A constant share has no interval: no line is drawn.
        if share["low"] is not None:
            axes.plot([share["low"], share["high"]], [place, place], color="#333333", lw=1)
    axes.axvline(0, color="#333333", lw=0.8)
    axes.grid(axis="y", visible=False)
