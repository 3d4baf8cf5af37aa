"""The pictures of the second principle's checks: does the map follow the model's performance?"""

from typing import Any

from matplotlib.figure import Figure

from heatproof.plots.chart import (
    FOLLOWER,
    INK,
    LIMIT,
    OURS,
    RIVAL,
    Numbers,
    Spot,
    bar,
    card,
    dot,
    kind_of,
    label_rows,
    legend,
    number,
    spot,
    tick,
)

FOLLOWS = "a map that follows"


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
