"""The page's figures, each from the numbers of its section (and the pictures they are about)."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from heatproof.evaluation.store import Part
from heatproof.plots.style import INK, chart_style
from heatproof.recipes.grad_eclip_paper.catalogue import compared
from heatproof.recipes.grad_eclip_paper.following_figure import following_figures
from heatproof.recipes.grad_eclip_paper.gap_figure import gap_figures
from heatproof.recipes.grad_eclip_paper.inputs import Material

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ABBREVIATED = {
    name: name.replace(", untouched model", "\n(untouched model)") for name in compared()
}
STYLES: dict[str, dict[str, Any]] = {
    "grad-eclip": {"color": "#c1272d", "marker": "o"},
    "attention-eclip": {"color": "#c1272d", "marker": "x", "ls": ":"},
    "grad-eclip, untouched model": {"color": "#0072b2", "marker": "o"},
    "attention-eclip, untouched model": {"color": "#0072b2", "marker": "x", "ls": ":"},
    "attention-x-gradient": {"color": "#009e73", "marker": "s"},
    "gae": {"color": "#cc79a7", "marker": "^"},
    "raw-attention": {"color": "#8a6d00", "marker": "v"},
    "random": {"color": "#777777", "marker": ".", "ls": "--"},
    "center": {"color": "#333333", "marker": "+", "ls": "--"},
}
"""Twins share a colour: where they agree, crosses lie on dots."""
CHANGED, UNTOUCHED = "#c1272d", "#0072b2"


def figures(
    sections: dict[str, Part | None], material: Material
) -> "Iterator[tuple[str, str, Figure]]":
    """Yield name, caption and figure in the order of the page; the name begins with the section."""
    a, b, c, d = (sections.get(letter) for letter in "abcd")
    if a is not None:
        yield "a-maps", _A, _two_maps(a, _example(material))
    if b is not None:
        yield "b-six-prompts", _b_caption(b["example"]), _six(b["example"], material)
        yield "b-accuracy", _B, _accuracy(b)
    if c is not None:
        yield "c-causes", _C, _causes(c)
    yield from gap_figures(sections)
    yield from following_figures(sections, STYLES)
    if d is not None:
        if d["family"] is not None:
            yield "d-family", _D.format(family=d["family is"]), _family(d)
        yield "d-right-wrong", _D2, _split(d)
    if (pictures := sections.get("e pictures")) is not None:
        yield "e-curves", _E, _curves(pictures)
        yield "e-areas", _E2, _areas(pictures)
    if (captions := sections.get("e captions")) is not None:
        yield "e-text", _E3, _text(captions)


_A = (
    "One image, both maps as published (red positive, blue negative), and their "
    "difference, on its own scale."
)
_B = (
    "Accuracy (Wilson's 95 % interval) and cosine of the changed model's embeddings with the "
    "original's, when the last n layers have one head over the full width. Dotted: chance."
)
_C = (
    "Every setting of Grad-ECLIP's options on either input. Left: how far the explained cosine is "
    "from the model's own. Middle: how often the explained pass (dot) and the implied model (ring) "
    "prefer the named shape to all absent ones. Right: does the named object get the highest mean "
    "heat? Vertical lines: the untouched model with its own attention; dotted: chance. Bars are "
    "95 % intervals."
)
_D = (
    "Quality of the maps against accuracy, one point a model; the family is {family}. Dotted: "
    "chance. Bars are 95 % intervals over images. Crosses on dots: the twins agree."
)
_D2 = (
    "Quality of the maps where the model prefers the named prompt to all absent ones (filled) and "
    "where it does not (hollow), 95 % intervals. Dotted: chance."
)
_E = (
    "Top-1 accuracy of the label as pixels are removed from the image (deletion, lower is "
    "better) or inserted (higher is better). Above: the authors' protocol, which stops at half of "
    "the pixels. Below: corrected. Intervals are in the next figure and in the tables."
)
_E2 = (
    "Area under the top-1 curve with 95 % intervals over images. Dotted: the random map. Arrows: "
    "where better is."
)
_E3 = (
    "Area under the cosine as the words (left) or tokens (right) go that the map puts highest; "
    "lower is better, 95 % intervals over captions. Dotted: random order."
)


def _b_caption(example: Part) -> str:
    return (
        f"The six of the {example['task']} prompts that the original model likes best of one "
        "image, and their cosines with the image in Grad-ECLIP's forward pass. The image was "
        + ("chosen: it is the first, by seed, whose best match changes; that happens for "
           if example["changes"] else "not chosen: no best match changes, in ")
        + f"{example['changed pictures']} of {example['of pictures']} images."
    )  # fmt: skip


def setting_label(setting: str) -> str:
    """Return a setting's name as the page says it."""
    labels = {
        "loosened (output)": "loosened (through W_O)",
        "loosened (none)": "loosened (raw q, k)",
        ", none,": ", no weight,",
        ", native": ", crop",
        ", keep": ", own aspect",
    }
    for old, new in labels.items():
        setting = setting.replace(old, new)
    return setting


# --- drawing ----------------------------------------------------------------------------------


def styled() -> AbstractContextManager[None]:
    """Draw and save figures inside: the user's own matplotlib settings come back afterwards."""
    return chart_style(font__size=9, axes__grid=True)


def save(figure: "Figure", path: Path) -> None:
    """Save as PNG, the same bytes for the same numbers."""
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _new(
    columns: int, width: float | int, height: float | int, rows: int = 1, **how: Any
) -> "tuple[Figure, Any]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **how)


def _example(material: Material) -> Image.Image:
    for images in (material.captioned, *material.tasks, material.located):
        if images is not None:
            return images.photos[0]
    raise ValueError("no material")


def _two_maps(data: Part, photo: Image.Image) -> "Figure":
    figure, axes = _new(4, 9.5, 2.9)
    maps = {name: np.asarray(values) for name, values in data["example"]["maps"].items()}
    one, other = maps.values()
    axes[0, 0].imshow(photo)
    axes[0, 0].set_title(f"“{data['example']['prompt']}”", fontsize=8, wrap=True)
    # Maps of zeros have no scale of their own; equal maps have no scale of difference.
    scale = float(np.abs(one).max()) or 1.0
    gap = one - other
    panels = [(name, values, scale) for name, values in maps.items()]
    panels.append(("difference", gap, float(np.abs(gap).max()) or scale))
    for axis, (name, values, most) in zip(axes[0, 1:], panels, strict=True):
        image = axis.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most)
        axis.set_title(name)
        bar = figure.colorbar(image, ax=axis, shrink=0.75, format="%.1e")
        bar.ax.tick_params(labelsize=7)
    for axis in axes[0]:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[["left", "bottom"]].set_visible(False)
    return figure


def _six(data: Part, material: Material) -> "Figure":
    figure, axes = _new(2, 9.5, 3.0, width_ratios=[1, 2.6])
    task = next(task for task in material.tasks if task.name == data["task"])
    axes[0, 0].imshow(task.photos[data["picture"]])
    axes[0, 0].set_title(f"truth: {data['label']}")
    axes[0, 0].axis("off")
    place = np.arange(len(data["prompts"]))
    axis: "Axes" = axes[0, 1]
    for shift, name, label, colour in (
        (-0.2, "original", "original model", UNTOUCHED),
        (0.2, "grad-eclip", "Grad-ECLIP's forward pass", CHANGED),
    ):
        values = data[name]
        best = int(np.argmax(values))
        bars = axis.barh(place + shift, values, 0.38, color=colour, alpha=0.55, label=label)
        bars[best].set_alpha(1.0)  # the prompt that this model would choose
        for n, value in enumerate(values):
            text = f"{value:.3f}" + ("  best" if n == best else "")
            axis.annotate(text, (max(value, 0), n + shift), (3, 0), textcoords="offset points",
                          va="center", fontsize=7)  # fmt: skip
    axis.set_yticks(place, data["prompts"])
    axis.invert_yaxis()
    axis.set_xlabel("cosine")
    axis.margins(x=0.15)
    _legend_above(axis, 2)
    return figure


def _accuracy(data: Part) -> "Figure":
    figure, axes = _new(2, 9.5, 5.2, rows=2, sharex="col", height_ratios=[1.5, 1])
    for column, side in enumerate(("image", "text")):
        upper, lower = axes[:, column]
        for number, task in enumerate(data["tasks"]):
            colour = f"C{number}"
            rows = task["sides"][side]
            layers = [row["layers"] for row in rows]
            _bars(upper, layers, [row["accuracy"] for row in rows], color=colour, marker="o",
                  label=f"{task['name']} ({task['classes']} names)")  # fmt: skip
            upper.axhline(task["chance"], color=colour, ls=":", lw=0.9)
            _bars(
                lower, layers, [row["embedding cosine"] for row in rows], color=colour, marker="o"
            )
        upper.set(title=f"{side} side", ylabel="accuracy", ylim=(0, 1.03))
        lower.set(xlabel=f"last n {side} layers with one head", ylabel="embedding cosine")
        lower.set_ylim(top=1.02)
        lower.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 1].legend(fontsize=8, loc="lower left")
    return figure


def _causes(data: Part) -> "Figure":
    # By input, then weight: settings that differ in their heads alone stand together.
    names = sorted(data["cells"], key=lambda name: name.split(", ")[::-1])
    figure, axes = _new(3, 10, 0.3 * len(names) + 1.3, sharey=True)
    place = list(range(len(names)))
    cells = [data["cells"][name] for name in names]
    base = data["cells"][data["alone"]["nothing"]]
    _across(axes[0, 0], place, [c["gap"] for c in cells], color=INK, marker="o")
    axes[0, 0].set_xlabel("|explained - own cosine|")
    _across(
        axes[0, 1],
        place,
        [c["explained right"] for c in cells],
        color=UNTOUCHED,
        marker="o",
        label="explained pass",
    )
    _across(
        axes[0, 1],
        [p + 0.2 for p in place],
        [c["implied right"] for c in cells],
        color=CHANGED,
        marker="o",
        mfc="white",
        label="implied model",
    )
    axes[0, 1].axvline(base["explained right"]["value"], color=UNTOUCHED, lw=0.8)
    axes[0, 1].set_xlabel("accuracy")
    _legend_above(axes[0, 1], 2)
    _across(axes[0, 2], place, [c["choice"] for c in cells], color=INK, marker="o")
    axes[0, 2].axvline(base["choice"]["value"], color=INK, lw=0.8)
    axes[0, 2].axvline(data["chance"]["choice"]["value"], color=INK, lw=0.9, ls=":")
    axes[0, 2].set_xlabel("choice (share of images)")
    axes[0, 0].set_yticks(place, [setting_label(name) for name in names])
    axes[0, 0].invert_yaxis()
    return figure


def _family(data: Part) -> "Figure":
    figure, axes = _new(2, 9.8, 4.2)
    family = data["family"]
    accuracy = [each["value"] for each in family["accuracy"]]
    order = np.argsort(accuracy)
    for axis, quality in zip(axes[0], ("choice", "pointing"), strict=True):
        # Lines go from the worst model to the best, whatever their order in training.
        for name, style in STYLES.items():
            grades = family["methods"][name][quality]["by grade"]
            at, shown = [accuracy[n] for n in order], [grades[n] for n in order]
            _bars(axis, at, shown, label=name, lw=1.2, ms=5, **style)
        axis.axhline(data["chance"][quality]["value"], color=INK, ls=":", lw=0.9)
        axis.set(xlabel="accuracy: named prompt above all absent ones", ylabel=quality)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper",
                  fontsize=8)  # fmt: skip
    return figure


def _split(data: Part) -> "Figure":
    names = list(compared())
    figure, axes = _new(3, 9.8, 3.9, sharey=True)
    place = np.arange(len(names))
    for axis, quality in zip(axes[0], ("choice", "pointing", "energy"), strict=True):
        for shift, kind, face in ((-0.14, "right", None), (0.14, "wrong", "white")):
            for n, name in enumerate(names):
                value = data["split"]["methods"][name][quality][kind]
                _across(axis, [place[n] + shift], [value], color=STYLES[name]["color"], marker="o",
                        mfc=face)  # fmt: skip
        axis.axvline(data["chance"][quality]["value"], color=INK, ls=":", lw=0.9)
        axis.set_xlabel(quality)
    counts = data["split"]["methods"][names[0]]["choice"]
    axes[0, 0].plot([], [], "o", color=INK, label=f"right ({counts['right']['count']})")
    axes[0, 0].plot(
        [], [], "o", color=INK, mfc="white", label=f"wrong ({counts['wrong']['count']})"
    )
    _legend_above(axes[0, 0], 2)
    axes[0, 0].set_yticks(place, [ABBREVIATED[name] for name in names])
    axes[0, 0].invert_yaxis()
    return figure


def _curves(data: Part) -> "Figure":
    figure, axes = _new(2, 9.8, 6.6, rows=2, sharey=True)
    for row, source in enumerate(("authors'", "corrected")):
        for column, direction in enumerate(("deletion", "insertion")):
            protocol = next(
                p for p in data["protocols"] if p["name"] == f"{source}, {direction}, label"
            )
            axis: "Axes" = axes[row, column]
            for name, style in STYLES.items():
                curve = protocol["methods"][name]["top-1"]["curve"]
                share = [100 * f for f in protocol["fractions"]]
                axis.plot(share, curve, label=name, lw=1.2, ms=4, **style)
            better = "\u2193" if protocol["better"] == "lower" else "\u2191"
            axis.set_title(f"{source} {direction} {better} {protocol['better']} is better")
            what = "pixels removed" if direction == "deletion" else "pixels inserted"
            where = "of the photograph" if row == 0 else "of what the model sees"
            axis.set(xlabel=f"{what}, % {where}", xlim=(0, 102))
    for axis in axes[:, 0]:
        axis.set_ylabel("top-1 accuracy")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper",
                  fontsize=8)  # fmt: skip
    return figure


def _areas(data: Part) -> "Figure":
    names = list(compared())
    figure, axes = _new(len(data["protocols"]), 12, 4.2, sharey=True)
    for axis, protocol in zip(axes[0], data["protocols"], strict=True):
        for n, name in enumerate(names):
            _across(axis, [n], [protocol["methods"][name]["top-1"]["area"]],
                    color=STYLES[name]["color"], marker="o")  # fmt: skip
        axis.axvline(
            protocol["methods"]["random"]["top-1"]["area"]["value"], color=INK, ls=":", lw=0.9
        )
        source, direction, of = protocol["name"].split(", ")
        better = "\u2190 better" if protocol["better"] == "lower" else "better \u2192"
        axis.set_title(f"{source}\n{direction},\n{of}", fontsize=9)
        axis.set_xlabel(f"area, top-1\n{better}")
    axes[0, 0].set_yticks(range(len(names)), [ABBREVIATED[name] for name in names])
    axes[0, 0].invert_yaxis()
    return figure


def _text(data: Part) -> "Figure":
    figure, axes = _new(len(data["ways"]), 9, 3.4, sharey=True)
    for axis, (way, methods) in zip(axes[0], data["ways"].items(), strict=True):
        for n, (name, method) in enumerate(methods.items()):
            _across(axis, [n], [method["area"]], color=STYLES[name]["color"], marker="o")
        axis.axvline(methods["random"]["area"]["value"], color=INK, ls=":", lw=0.9)
        axis.set_title(way)
        axis.set_xlabel("area under the cosine\n\u2190 better")
        axis.set_yticks(range(len(methods)), [ABBREVIATED[name] for name in methods])
    axes[0, 0].invert_yaxis()
    return figure


def _legend_above(axis: "Axes", columns: int) -> None:
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, fontsize=8)


def _bars(axis: "Axes", x: Sequence[float | int], intervals: Sequence[Part], **style: Any) -> None:
    axis.errorbar(x, _values(intervals), yerr=_reach(intervals), capsize=2, elinewidth=0.8, **style)


def _across(
    axis: "Axes", y: Sequence[float | int], intervals: Sequence[Part], **style: Any
) -> None:
    axis.errorbar(
        _values(intervals),
        y,
        xerr=_reach(intervals),
        capsize=2,
        elinewidth=0.9,
        ls="none",
        ms=5,
        **style,
    )


def _values(intervals: Sequence[Part]) -> list[float]:
    # matplotlib leaves a gap at NaN.
    return [float("nan") if i["value"] is None else i["value"] for i in intervals]


def _reach(intervals: Sequence[Part]) -> Any:
    """Return how far each interval reaches down and up; none where there is none."""
    ends: list[tuple[float, float]] = []
    for interval in intervals:
        value, low, high = (interval[key] for key in ("value", "low", "high"))
        known = None not in (value, low, high)
        down, up = (value - low, high - value) if known else (0, 0)
        # Rounding may put a value a hair outside of its interval; lengths are never negative.
        ends.append((max(0.0, down), max(0.0, up)))
    return np.asarray(ends).T
