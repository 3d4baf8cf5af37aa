"""One picture for each check of an audit, as SVG, from the finding's numbers alone."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from textwrap import fill
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from heatproof.auditing.finding import Finding
from heatproof.report.chart import (
    FOLLOWER,
    INK,
    LIMIT,
    OURS,
    RIVAL,
    STYLE,
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

Numbers = Mapping[str, Any]
FOLLOWS = "a map that follows"
FLOOR = 1e-17
"""Where an exact zero is drawn on a log axis: below every rounding."""


def drawn(finding: Finding) -> str:
    """SVG; nothing where the check has no picture, or its numbers hold none."""
    draw = FIGURES.get(finding.check)
    if draw is None or not finding.numbers:
        return ""
    try:
        with mpl.rc_context(STYLE):
            figure = draw(finding.numbers)
        if figure is None:
            return ""
        name = "".join(c if c.isalnum() else "-" for c in finding.check)
        return svg(figure, name, escape(f"{finding.check}: {finding.verdict}"))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        # Another version's numbers: the page has them in words and as they are.
        return ""


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


# --- principle 2 ------------------------------------------------------------------------------


def graded_family(numbers: Numbers) -> Figure | None:
    """Quality of maps against accuracy, a point a model."""
    kinds = {"random": "s", "center": "^", FOLLOWS: "D"}
    figure, (axes,) = card(9)
    for each in numbers["models"]:
        accuracy = spot(each["accuracy"])
        if accuracy is None:
            continue
        plain = Spot(accuracy.value, accuracy.value, accuracy.value)
        for name, found in each["controls"].items():
            other = spot(found)
            if other is not None:
                colour = FOLLOWER if name == FOLLOWS else RIVAL
                lone = Spot(other.value, other.value, other.value)
                dot(axes, plain, lone, colour, kinds.get(name, "s"), name.replace(" ", "-"))
        quality = spot(each["quality"])
        if quality is not None:
            dot(axes, accuracy, quality)
    if not numbers["models"]:
        return None
    axes.axhline(0, color=RIVAL, linestyle="--", linewidth=1).set_gid(kind_of("chance-of-maps"))
    axes.axvline(0.5, color=RIVAL, linestyle="--", linewidth=1).set_gid(kind_of("chance-of-models"))
    axes.set_xlabel("the model: share of absent prompts that the named one outscores")
    axes.set_ylabel("the map: choice above chance")
    legend(
        axes,
        [
            ("this method", OURS, "o"),
            ("random", RIVAL, "s"),
            ("center", RIVAL, "^"),
            (FOLLOWS, FOLLOWER, "D"),
        ],
    )
    return figure


def moved(numbers: Numbers) -> Figure | None:
    """Quality that the map loses against accuracy that the model loses, a point an intervention."""
    figure, (axes,) = card(8)
    for each in numbers["interventions"]:
        lost, quality = spot(each["accuracy lost"]), spot(each["quality lost"])
        other = spot(each["quality lost by a map that follows"])
        if lost is None:
            continue
        if other is not None:
            plain = Spot(lost.value, lost.value, lost.value)
            lone = Spot(other.value, other.value, other.value)
            dot(axes, plain, lone, FOLLOWER, "D", "a-map-that-follows")
        if quality is not None:
            # What costs the model nothing asks nothing of the map.
            costly = bool(each["costs accuracy"])
            dot(axes, lost, quality, OURS if costly else RIVAL, "o", "" if costly else "free")
    if not numbers["interventions"]:
        return None
    axes.axhline(0, color=RIVAL, linestyle="--", linewidth=1).set_gid(kind_of("unmoved"))
    axes.set_xlabel("the model: accuracy lost")
    axes.set_ylabel("the map: quality lost")
    free = any(not each["costs accuracy"] for each in numbers["interventions"])
    kinds = [("an intervention", OURS, "o"), (FOLLOWS, FOLLOWER, "D"), ("unmoved", RIVAL, "--")]
    legend(axes, [*kinds, ("costs the model nothing", RIVAL, "o")] if free else kinds)
    return figure


def right_wrong(numbers: Numbers) -> Figure | None:
    """Where the map is on the object or elsewhere, by whether the model is right."""
    cells: dict[str, Numbers] = numbers["cells"]
    if not cells:
        return None
    names = [f"{name}\n({each['questions']} questions)" for name, each in cells.items()]
    figure, (shares, gains) = card(len(cells) * 1.5, 2)
    label_rows(shares, names)
    for row, each in enumerate(cells.values()):
        found = spot(each["map chooses the object"])
        if found is not None:
            rest = shares.barh([row], [1 - found.value], 0.6, found.value, color=RIVAL, alpha=0.3)
            rest.patches[0].set_gid(kind_of("rest"))
            bar(shares, row, found)
    shares.set_xlim(0, 1)
    shares.set_xlabel("share of questions")
    kinds = [("map on the object", OURS, "bar"), ("map elsewhere", "#d6d6da", "bar")]
    legend(shares, kinds)
    label_rows(gains, [*([""] * len(cells))])
    for row, each in enumerate(cells.values()):
        found = spot(each["choice above chance"])
        if found is not None:
            dot(gains, found, row, name="gain")
    gains.axvline(0, color=RIVAL, linestyle="--").set_gid(kind_of("chance"))
    gains.set_xlabel("choice above chance")
    return figure


def null_prompts(numbers: Numbers) -> Figure | None:
    """How far the map moves to that of another prompt, against limit and the map that follows."""
    changes: dict[str, Any] = numbers["change"]
    if not changes:
        return None
    floor = number(numbers["noise floor"]["value"]) or 0.0
    figure, (axes,) = card(len(changes))
    label_rows(axes, list(changes))
    for row, (kind, each) in enumerate(changes.items()):
        found, judged = spot(each), numbers["change over the floor"].get(kind, {})
        if found is not None:
            bar(axes, row, found)
        limit, other = number(judged.get("limit")), spot(judged.get(FOLLOWS))
        if limit is not None:
            tick(axes, floor + limit, row)
        if other is not None:
            tick(axes, other.value, row, FOLLOWER, "a-map-that-follows")
    axes.set_xlim(-0.02, 2)
    axes.set_xticks([0, 1, 2], ["0 the same map", "1 unrelated", "2 opposite"])
    axes.set_xlabel("1 - cosine to the named prompt's map")
    legend(axes, [("this method", OURS, "bar"), ("limit", LIMIT, "-"), (FOLLOWS, FOLLOWER, "-")])
    return figure


def sign(numbers: Numbers) -> Figure | None:
    """Effect of hiding patches, a row a way of hiding, a bar a claim."""
    effects: dict[str, Numbers] = numbers["effects"]
    colours = {"positive": OURS, "positive, specific": "#86b1e0", "negative": FOLLOWER}
    claims = [*colours, *(name for name in effects if name not in colours)]
    claims = [name for name in claims if name in effects]
    ways = list(dict.fromkeys(way for each in effects.values() for way in each))
    if not claims or not ways:
        return None
    figure, (axes,) = card(len(ways) * len(claims) * 0.5)
    label_rows(axes, ways)
    height = 0.8 / len(claims)
    for place, claim in enumerate(claims):
        for row, way in enumerate(ways):
            found = spot(effects[claim].get(way))
            if found is not None:
                at = row + (place - (len(claims) - 1) / 2) * height
                bar(axes, at, found, colours.get(claim, RIVAL), height * 0.9)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("effect as the sign says, over random patches, in random patches' effects")
    legend(axes, [(claim, colours.get(claim, RIVAL), "bar") for claim in claims])
    return figure


def attribution_error(numbers: Numbers) -> Figure | None:
    """How far the sum misses, beside the controls."""
    rows = {
        "this method's sum": numbers["error"],
        "another picture's sum": numbers["error of another picture's sum"],
        "a map of zeros": numbers["error of a map of zeros"],
    }
    found = {name: spot(each) for name, each in rows.items()}
    if found["this method's sum"] is None:
        return None
    figure, (axes,) = card(len(rows))
    label_rows(axes, list(rows))
    for row, each in enumerate(found.values()):
        if each is not None:
            bar(axes, row, each, RIVAL if row else OURS)
    axes.set_xlabel("error, in units of the score's mean change from the baseline")
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
