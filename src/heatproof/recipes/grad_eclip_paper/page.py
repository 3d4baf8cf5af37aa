"""reproduce.html: what its template is given, from reproduce.json's values and the figures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heatproof.evaluation.store import Part
from heatproof.pages import render
from heatproof.pages.render import Cell
from heatproof.recipes.grad_eclip_paper import simplicity
from heatproof.recipes.grad_eclip_paper.conclusions import percent, told
from heatproof.recipes.grad_eclip_paper.figures import setting_label
from heatproof.recipes.grad_eclip_paper.localisation import QUALITIES

VERDICTS = ("shown", "contradicted", "not shown", "not measured")
SECTIONS = {
    "a": ("a", "a simpler"),
    "b": ("b",),
    "c": ("c", "c gap", "c gap text"),
    "d": ("d following", "d"),
    "e": ("e pictures", "e captions"),
}


@dataclass(frozen=True, kw_only=True)
class Subsection:
    """A table of a section (or facts in its place), under a title and a note, or folded away."""

    title: str = ""
    note: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str | Cell]] = ()
    numbers: Sequence[int] = ()
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    folded: str = ""


def page(result: Part, figures: Sequence[tuple[str, str, bytes]]) -> str:
    """Return the whole page. `figures` are name, caption and PNG bytes each."""
    verdicts = [claim["verdict"] for claim in result["conclusions"]]
    counts = [f"{verdicts.count(kind)} {kind}" for kind in VERDICTS if kind in verdicts]
    return render.page(
        "reproduce.html",
        data=result["data"],
        environment=result["environment"],
        notices=result["notices"],
        conclusions=result["conclusions"],
        counts=", ".join(counts),
        sections={
            letter: [
                _part(name, result["sections"][name])
                for name in names
                if name in result["sections"]
            ]
            for letter, names in SECTIONS.items()
        },
        figures=figures,
        command=result["command"],
        facts=result["environment"] | result["settings"],
    )


def _part(name: str, data: Part | None) -> dict[str, Any]:
    if data is None:
        return {"name": name, "measured": False}
    subsections = list(_SUBSECTIONS[name](data))
    return {
        "name": name,
        "measured": True,
        "flaws": data.get("flaws", ()),
        "subsections": subsections,
    }


# --- tables -----------------------------------------------------------------------------------


def _equivalence(data: Part) -> Iterator[Subsection]:
    grouped: dict[tuple[str, ...], list[Part]] = {}
    for row in data["rows"]:
        weight = (
            f"{row['spatial']} ({row['projection']})"
            if row["spatial"] == "loosened"  # the other weights have no projection
            else row["spatial"]
        )
        grouped.setdefault((row["side"], row["heads"], weight), []).append(row)
    dtypes = list(data["worst"])
    yield Subsection(
        note="Over all rectifications and one or two layers.",
        head=[
            "side", "heads", "spatial weight",
            *(f"largest difference, {dtype}" for dtype in dtypes),
        ],
        rows=[
            [*key, *(_worst(rows, dtype) for dtype in dtypes)] for key, rows in grouped.items()
        ],
        numbers=range(3, 3 + len(dtypes)),
    )  # fmt: skip
    cost = data["cost"]
    measures = ("passes", "gradients", "saved_tensors", "saved_bytes", "seconds", "peak_bytes")
    yield Subsection(
        head=["cost", *(side["method"] for side in cost["sides"]), "ratio"],
        rows=[
            [name, *(f"{side[name]:.4g}" for side in cost["sides"]), _ratio(cost["ratios"][name])]
            for name in measures
        ],
        numbers=(1, 2, 3),
    )
    yield Subsection(note=f"Times on {cost['threads']} thread(s), {cost['device']}.")


def _simpler(data: Part) -> Iterator[Subsection]:
    size = "{tokens} tokens, width {width}, {heads} heads".format(**data["sizes"])
    yield Subsection(
        title="Simpler? One last attention layer, counted",
        note=f"{size}, float64, {data['threads']} thread(s); graphs begin at queries, keys and "
        f"values. All maps are equal (largest difference {data['largest difference']:.0e}). "
        "Columns of two: the readout's row alone, and all rows.",
        head=[
            "way", "quantities taken", "statements", "multiply-adds, M", "all rows",
            "saved, KiB", "all rows", "peak, KiB", "all rows", "time, ms",
        ],
        rows=simplicity.rows_of(data),
        numbers=range(1, 10),
    )  # fmt: skip


def _worst(rows: Sequence[Part], dtype: str) -> str:
    # NaN where this dtype was not run: it must not read as a difference of 0.
    own = (row["relative"] for row in rows if row["dtype"] == dtype)
    return f"{max(own, default=float('nan')):.1e}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _another(data: Part) -> Iterator[Subsection]:
    for task in data["tasks"]:
        for side, rows in task["sides"].items():
            yield Subsection(
                title=f"{task['name']}, {side} side",
                head=["layers with one head", f"accuracy, {task['name']}", "embedding cosine"],
                rows=[
                    [str(r["layers"]), percent(r["accuracy"]), _estimate(r["embedding cosine"])]
                    for r in rows
                ],
            )
        forward = task["forward"]
        yield Subsection(
            facts={
                "mean gap of the cosine": _plain(forward["mean gap"]),
                "largest gap": f"{forward['largest gap']:.4f}",
                "rank correlation of all names": _plain(forward["rank correlation"]),
                "best match changes": percent(forward["best match changes"]),
                "right becomes wrong": percent(forward["right to wrong"]),
                "wrong becomes right": percent(forward["wrong to right"]),
            }
        )


def _causes(data: Part) -> Iterator[Subsection]:
    chance = ", ".join(f"{q} {data['chance'][q]['value']:.3f}" for q in QUALITIES)
    cells = data["cells"]
    yield Subsection(
        note=f"{data['pictures']} images; chance: {chance}.",
        head=[
            "setting", "gap", "accuracy, explained", "accuracy, implied", *QUALITIES,
            "choice against none",
        ],
        rows=[
            [
                setting_label(name),
                _estimate(c["gap"]),
                percent(c["explained right"]),
                percent(c["implied right"]),
                *(_estimate(c[quality]) for quality in QUALITIES),
                told(c["choice, against none"]),
            ]
            for name, c in cells.items()
        ],
    )  # fmt: skip
    yield Subsection(
        title="Each cause alone, and all three: change against the untouched model",
        head=["cause", "accuracy, explained", "accuracy, implied", *QUALITIES],
        rows=[
            [
                cause,
                told(cells[name]["lost, explained"]),
                told(cells[name]["lost, implied"]),
                *(told(cells[name][f"{quality}, against none"]) for quality in QUALITIES),
            ]
            for cause, name in data["alone"].items()
            if cause != "nothing"
        ],
    )
    yield Subsection(
        title="One head: does the map move with the model?",
        head=["spatial weight", "accuracy", *QUALITIES],
        rows=[
            [setting_label(m["weight"]), told(m["accuracy"]), *(told(m[q]) for q in QUALITIES)]
            for m in data["moved"]
        ],
    )


def _gap(data: Part) -> Iterator[Subsection]:
    if data.get("gaps"):
        images = "pictures" in data
        count = f"{data['pictures']} images" if images else f"{data['captions']} captions"
        yield Subsection(
            title=f"Each cause's share of the gap, {'image' if images else 'text'} side",
            note=f"{count}. Shapley values over all {2 ** len(data['causes'])} sets of causes: "
            "they depend on no order and add up to the gap of the published map. Gap in quality: "
            "the model's own map less the published one; in distance: 1 less their rank "
            "correlation.",
            head=["cause", "what it is", *data["gaps"]],
            rows=[
                *(
                    [cause, what, *(told(g["shares"][cause]) for g in data["gaps"].values())]
                    for cause, what in data["causes"].items()
                ),
                ["all, as published", "", *(told(g["published"]) for g in data["gaps"].values())],
            ],
        )
    if "lines" in data:
        yield Subsection(title="Causes beside the game", facts=_lines(data["lines"]))


def _lines(lines: Part) -> dict[str, str]:
    """Return the causes that are no switch, in one line each."""
    order = lines["ReLU in each layer, not of the sum"]
    share = lines["share of the score through the last attention"]
    return {
        "values before W_O, weight after it": "gradient times value is the same number on either "
        "side of W_O, but for its bias "
        + ("(proved for all sizes)" if lines["values before W_O"]["proved"] else "(NOT PROVED)"),
        "ReLU in each layer, not of the sum": "not measured"
        if order is None
        else f"moves the published text map by {told(order)} (1 - rank correlation)",
        "residual stream": f"{percent(share)} of the score passes the last attention call; no map "
        "of that call shows the rest"
        if share["value"] is not None
        else f"not measured: {share['why']}",
        "the evaluation": "half of the pixels, pixels outside the crop, maps that are stretched: "
        "see (e), which measures the authors' protocol beside a corrected one",
    }


def _following(data: Part) -> Iterator[Subsection]:
    methods = data["methods"]
    blind = {
        name: m["blind"]["blind in"]["every layer"]
        for name, m in methods.items()
        if "blind in" in m["blind"]
    }
    yield Subsection(
        title="Blind model: the readout is kept from all patches",
        note=f"{data['pictures']} images. All embeddings are equal to the bit where 'differ by' "
        "is 0. Choice is above chance; a constant map chooses nothing.",
        head=["method", "embeddings differ by", "maps not constant", "choice, blind", "as it is"],
        rows=[
            [
                name,
                f"{one['embeddings differ by']:.2g}",
                f"{one['maps that are not constant']} of {one['maps']}",
                *(
                    _estimate(one["phantom localisation"][key])
                    if one.get("phantom localisation")
                    else "constant" if key == "value" else ""
                    for key in ("value", "before")
                ),
            ]
            for name, one in blind.items()
        ],
    )  # fmt: skip
    yield Subsection(
        title="F: what the map loses of its d', per what the cause loses",
        note="0 unmoved, 1 in step, above 1 the map loses more. In small letters the 95 % interval "
        "over images. Where F is not given, the reason is in the list of sentences.",
        head=["method", *data["ladders"]],
        rows=[
            [name, *(_estimate(one["following"]) for one in m["ladders"].values())]
            for name, m in methods.items()
        ],
    )
    yield Subsection(
        title="F without the first rung",
        head=["method", *data["ladders"]],
        rows=[
            [name, *(_estimate(one["without the first rung"]) for one in m["ladders"].values())]
            for name, m in methods.items()
        ],
        folded="F without the first rung, which one rung cannot make",
    )
    yield Subsection(
        title="The model on each rung",
        head=["ladder", "rung", "accuracy", "cause (chance 0.5)"],
        rows=[
            [ladder, rung, percent(one["accuracy"][n]), _estimate(_cause(methods, ladder)[n])]
            for ladder, one in data["ladders"].items()
            for n, rung in enumerate(one["rungs"])
        ],
    )


def _cause(methods: Part, ladder: str) -> Sequence[Part]:
    # The cause is the model's own, whatever the method.
    return next(iter(methods.values()))["ladders"][ladder]["cause"]


def _alignment(data: Part) -> Iterator[Subsection]:
    yield Subsection(
        note=f"{data['pictures']} images; the model is right on "
        f"{percent(data['split']['accuracy'])}. Like with like: within as many objects and thirds "
        "of the named object's area.",
    )
    if data["family"] is not None:
        yield from _graded(data["family"])
    for quality in QUALITIES:
        yield Subsection(
            title=f"{quality}, where the model is right and wrong",
            head=["method", "right", "wrong", "right less wrong, like with like"],
            rows=[
                [
                    name,
                    _estimate(m[quality]["right"]),
                    _estimate(m[quality]["wrong"]),
                    told(m[quality]["difference"]),
                ]
                for name, m in data["split"]["methods"].items()
            ],
        )


def _graded(family: Part) -> Iterator[Subsection]:
    graded = zip(family["names"], family["accuracy"], strict=True)
    head = ["method", *(f"{name} ({right['value']:.1%})" for name, right in graded)]
    head += ["rank correlation with accuracy", "worst model, over chance"]
    head += ["over random", "over center"]
    for quality in QUALITIES:
        yield Subsection(
            title=f"{quality}, by model (its accuracy)",
            head=head,
            rows=[
                [
                    name,
                    *map(_estimate, m[quality]["by grade"]),
                    told(m[quality]["rank correlation"]),
                    *(
                        told(m[quality]["phantom"][f"over {control}"])
                        for control in ("chance", "random", "center")
                    ),
                ]
                for name, m in family["methods"].items()
            ],
        )


def _images(data: Part) -> Iterator[Subsection]:
    yield Subsection(
        note=f"{data['pictures']} images among {data['classes']} names; unperturbed, the label is "
        f"the best match on {percent(data['best match is the label'])}.",
    )
    for protocol in data["protocols"]:
        kinds = protocol["kinds"]
        yield Subsection(
            title=f"{protocol['name']}: {protocol['better']} is better, {protocol['fill']}",
            head=["method", *(f"area, {kind}" for kind in kinds), "top-1, less random"],
            rows=[
                [
                    name,
                    *(_estimate(m[kind]["area"]) for kind in kinds),
                    told(m[kinds[0]]["against random"]),
                ]
                for name, m in protocol["methods"].items()
            ],
        )
        # A pair is its two names and a difference per kind of accuracy.
        names = [key for key in protocol["pairs"][0] if key not in ("one", "other")]
        yield Subsection(
            head=["one", "less the other", *(f"{name}, difference" for name in names)],
            rows=[
                [pair["one"], pair["other"], *(told(pair[name]) for name in names)]
                for pair in protocol["pairs"]
            ],
            folded="Paired differences",
        )


def _captions(data: Part) -> Iterator[Subsection]:
    yield Subsection(note=f"{data['captions']} captions, such as “{data['example']}”.")
    for way, methods in data["ways"].items():
        yield Subsection(
            title=f"{way}, lower is better",
            head=[
                "method", "area under the cosine", "less random", "less its reverse",
                "less grad-eclip",
            ],
            rows=[
                [
                    name,
                    _estimate(m["area"]),
                    *(told(m[f"against {x}"]) for x in ("random", "its reverse", "grad-eclip")),
                ]
                for name, m in methods.items()
            ],
        )  # fmt: skip


_SUBSECTIONS: dict[str, Callable[[Part], Iterator[Subsection]]] = {
    "a": _equivalence,
    "a simpler": _simpler,
    "b": _another,
    "c": _causes,
    "c gap": _gap,
    "c gap text": _gap,
    "d following": _following,
    "d": _alignment,
    "e pictures": _images,
    "e captions": _captions,
}


def _estimate(interval: Part) -> Cell:
    """Return a value with its interval in small letters."""
    if interval["value"] is None:
        return Cell("not measured")
    if interval["low"] is None:
        return Cell(f"{interval['value']:.3f}", small="[no interval]")
    return Cell(
        f"{interval['value']:.3f}", small=f"[{interval['low']:.3f}, {interval['high']:.3f}]"
    )


def _plain(interval: Part) -> str:
    cell = _estimate(interval)
    return f"{cell.text} {cell.small}".strip()
