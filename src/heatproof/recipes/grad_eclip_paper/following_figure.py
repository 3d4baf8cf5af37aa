"""The figure of following: what maps keep against what the cause keeps, a panel per ladder."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from heatproof.evaluation.store import Part

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "What is left of a map's d' against what is left of the cause's, as the model gets worse from "
    "right to left; one panel per ladder. On the diagonal a map is in step with the model, on a "
    "level line it is unmoved. Left out: methods that are not above chance on the model as it is, "
    "and ladders on which the model loses too little."
)


def following_figures(
    sections: dict[str, Part | None], styles: Mapping[str, dict[str, Any]]
) -> "Iterator[tuple[str, str, Figure]]":
    """Yield name, caption and figure where F was given for any method."""
    data = sections.get("d following")
    if data is None:
        return
    asked = {
        ladder: {
            name: one
            for name, method in data["methods"].items()
            if not (one := method["ladders"][ladder])["why not"]
        }
        for ladder in data["ladders"]
    }
    asked = {ladder: methods for ladder, methods in asked.items() if methods}
    if asked:
        yield "d-following", CAPTION, _kept(asked, styles)


def _kept(asked: Mapping[str, Part], styles: Mapping[str, dict[str, Any]]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.0 * len(asked) + 2.2, 3.4), layout="constrained")
    axes: Any = figure.subplots(1, len(asked), sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    for axis, (ladder, methods) in zip(axes, asked.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="#999999", lw=0.9, ls="--")
        axis.axhline(1, color="#999999", lw=0.9, ls=":")
        for name, one in methods.items():
            (line,) = axis.plot(
                one["cause kept"], one["quality kept"], label=name, lw=1.2, ms=5, **styles[name]
            )
            handles.setdefault(name, line)
        axis.set(title=ladder, xlabel="the cause keeps")
    axes[0].set_ylabel("the map keeps")
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", fontsize=8)
    return figure
