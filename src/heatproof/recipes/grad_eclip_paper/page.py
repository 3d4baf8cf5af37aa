"""reproduce.html: the conclusions, and for each claim figures, tables and how it was measured."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from heatproof.pages.render import document, facts, table
from heatproof.recipes.grad_eclip_paper.conclusions import percent, told
from heatproof.recipes.grad_eclip_paper.figures import spoken
from heatproof.recipes.grad_eclip_paper.localisation import QUALITIES
from heatproof.recipes.grad_eclip_paper.store import Part

MARKS = {"shown": "ok", "contradicted": "bad", "not shown": "faint", "not measured": "faint"}
TITLES = {
    "a": "(a) Equivalence: Attention-ECLIP and Grad-ECLIP are one map",
    "b": "(b) Not those of the original model",
    "c": "(c) The causes, one by one and together",
    "d": "(d) Misaligned with the model's performance",
    "e": "(e) Insertion, deletion, and deletion of words",
}
STYLE = (
    "<style>figure.wide { margin: 1.2rem 0; } figure.wide img { max-height: none; background: #fff;"
    " padding: .4rem; } .faint { color: var(--faint); }</style>"
)


def page(result: Part, drawn: Sequence[tuple[str, str, bytes]]) -> str:
    """The whole page. `drawn` are the figures: name, caption and PNG bytes."""
    sections = result["sections"]
    body = [
        STYLE,
        _header(result),
        _notices(result["notices"]),
        _conclusions(result["conclusions"]),
        *(_section(letter, sections, drawn) for letter in TITLES),
        "<h2>Make it again</h2>",
        f"<pre><code>{escape(result['command'])}</code></pre>",
        facts(result["environment"] | result["settings"]),
    ]
    return document("The paper's claims", "".join(body))


def _header(result: Part) -> str:
    what = f"{result['environment']['model']} on {result['data']}"
    return (
        "<header><h1>Debunking Grad-ECLIP (arXiv 2605.12952), run on this model</h1>"
        f"<p>{escape(what)}, seed {result['environment']['seed']}, weights "
        f"{result['environment']['weights_sha256'][:16]}</p></header>"
    )


def _notices(notices: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(each)}</li>" for each in notices)
    return f'<ul class="notices">{items}</ul>' if items else ""


def _conclusions(found: Sequence[Part]) -> str:
    counts = {kind: sum(c["verdict"] == kind for c in found) for kind in MARKS}
    lead = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    rows = [
        [
            f'<span class="{MARKS[c["verdict"]]}">{c["verdict"]}</span>',
            f"({c['section']})",
            f"<b>{escape(c['claim'])}</b><br>{escape(c['evidence'])}",
        ]
        for c in found
    ]
    rule = (
        "A claim is shown where the 95 % interval of the difference lies on its side of zero, "
        "contradicted where it lies on the other, and not shown where it holds zero. Intervals are "
        "over pictures, of this one model; many are asked at once, so about one in twenty would "
        "miss zero by chance alone."
    )
    head = ["verdict", "", "claim and figures"]
    return f"<h2>(f) Conclusions: {escape(lead)}</h2><p>{rule}</p>" + table(
        head, rows, short=[0, 1]
    )


def _section(letter: str, sections: Mapping[str, Part | None], drawn: Any) -> str:
    keys = ("e pictures", "e captions") if letter == "e" else (letter,)
    parts = [f"<h2>{escape(TITLES[letter])}</h2>"]
    asked = [key for key in keys if key in sections]
    if not asked:
        return ""
    for key in asked:
        data = sections[key]
        text = _MISSING[key] if data is None else _HOW[key].format(flaws=_flaws(data))
        parts.append(f"<p>{text}</p>")
    parts += [_figure(*each) for each in drawn if each[0].startswith(f"{letter}-")]
    for key in asked:
        data = sections[key]
        if data is not None:
            inside = _TABLES[key](data)
            parts.append(f"<details><summary>Tables</summary>{inside}</details>")
    return "".join(parts)


def _flaws(data: Part) -> str:
    return escape("; ".join(data.get("flaws", ())))


def _figure(name: str, caption: str, png: bytes) -> str:
    source = base64.b64encode(png).decode()
    return (
        f'<figure class="wide"><img alt="{escape(name)}" src="data:image/png;base64,{source}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


_HOW = {
    "a": "Both methods on the same pictures and captions, for every setting of heads, spatial "
    "weight, projection, rectification and one or two layers, on the image and the text side. The "
    "difference is in units of the map's largest value. <code>heatproof prove grad-eclip "
    "attention-eclip</code> gives the derivation and the exact proof.",
    "b": "Grad-ECLIP runs the explained layers with one head over the full width. The same is done "
    "here to the model by intervention, in the last 1 to n layers of either side, and the changed "
    "model is asked to name what the pictures show.",
    "c": "The explained pass is the one that the method differentiates. The implied model goes "
    "further: in the last layer, what the softmax gives to the patches is dealt out among them in "
    "proportion to what the map weighs by, as <code>heatproof audit</code> does it (without a "
    "spatial weight nothing is put in the model's place). Choice: has the "
    "named object the highest mean heat of all objects in the picture? Pointing: share of the "
    "hottest patch that is the object's. Energy: share of the positive heat on it.",
    "d": "Right means that the named prompt scores above every prompt that is false of the "
    "picture. A map that follows the model should get better over the family as the model does, be "
    "no better than chance where the model is at chance, and be better where the model is right. "
    "The random and the centred map never look at the model: they say what the checks "
    "make of such maps.",
    "e pictures": "The authors' protocol is kept with its flaws: {flaws}. Of these, the stretching "
    "of cropped maps is not repeated: all methods get the authors' input, at its own aspect ratio. "
    "No integration rule was released: the area is the trapezoid rule, divided by its span. The "
    "corrected protocol goes on to all of the patches that the model sees, whole patches at a "
    "time, seeded, for the label and for the class that the model predicts.",
    "e captions": "For text no script was released, so two ways are defined: <i>words</i> deletes "
    "the word and tokenises the shorter text anew; <i>masked keys</i> lets no token attend to the "
    "removed ones, in any layer, and moves nothing.",
}
_MISSING = {
    "a": "Not measured.",
    "b": "Not measured: no labelled pictures (pass --imagenet).",
    "c": "Not measured: no masks (pass --imagenet-s or --coco).",
    "d": "Not measured: no masks (pass --imagenet-s or --coco).",
    "e pictures": "Insertion and deletion of pictures: not measured, no labelled pictures (pass "
    "--imagenet).",
    "e captions": "Text deletion: not measured, no captions (pass --coco).",
}


# --- tables -----------------------------------------------------------------------------------


def _equivalence(data: Part) -> str:
    grouped: dict[tuple[str, ...], list[Part]] = {}
    for row in data["rows"]:
        weight = (
            f"{row['spatial']} ({row['projection']})"
            if row["spatial"] == "loosened"
            else row["spatial"]
        )
        grouped.setdefault((row["side"], row["heads"], weight), []).append(row)
    dtypes = list(data["worst"])
    rows = [
        [*map(escape, key), *(_worst(each, dtype) for dtype in dtypes)]
        for key, each in grouped.items()
    ]
    head = ["side", "heads", "spatial weight", *(f"largest difference, {d}" for d in dtypes)]
    text = "<p>Over all rectifications and one or two layers.</p>"
    sides = data["cost"]["sides"]
    of = ("passes", "gradients", "saved_tensors", "saved_bytes", "seconds", "peak_bytes")
    costs = [
        [name, *(f"{side[name]:.4g}" for side in sides), _ratio(data["cost"]["ratios"][name])]
        for name in of
    ]
    cost = table(["cost", *(side["method"] for side in sides), "ratio"], costs, numbers=[1, 2, 3])
    note = f"<p>Times on {data['cost']['threads']} thread(s), {escape(data['cost']['device'])}.</p>"
    return text + table(head, rows, numbers=range(3, 3 + len(dtypes))) + cost + note


def _worst(rows: Sequence[Part], dtype: str) -> str:
    return f"{max((r['relative'] for r in rows if r['dtype'] == dtype), default=float('nan')):.1e}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _another(data: Part) -> str:
    parts: list[str] = []
    for task in data["tasks"]:
        for side, each in task["sides"].items():
            rows = [
                [str(r["layers"]), percent(r["accuracy"]), _figure_of(r["embedding cosine"])]
                for r in each
            ]
            head = ["layers with one head", f"accuracy, {task['name']}", "embedding cosine"]
            parts.append(f"<h3>{escape(task['name'])}, {side} side</h3>" + table(head, rows))
        forward = task["forward"]
        said = {
            "mean gap of the cosine": _figure_of(forward["mean gap"]),
            "largest gap": f"{forward['largest gap']:.4f}",
            "rank correlation of all names": _figure_of(forward["rank correlation"]),
            "best match changes": percent(forward["best match changes"]),
            "right becomes wrong": percent(forward["right to wrong"]),
            "wrong becomes right": percent(forward["wrong to right"]),
        }
        parts.append(facts(said))
    return "".join(parts)


def _causes(data: Part) -> str:
    head = [
        "setting",
        "gap",
        "accuracy, explained",
        "accuracy, implied",
        *QUALITIES,
        "choice against none",
    ]
    rows = [
        [escape(spoken(name)), _figure_of(c["gap"]),
         percent(c["explained right"]), percent(c["implied right"]),
         *(_figure_of(c[q]) for q in QUALITIES), told(c["choice, against none"])]
        for name, c in data["cells"].items()
    ]  # fmt: skip
    alone = [
        [escape(cause), told(data["cells"][name]["lost, explained"]),
         told(data["cells"][name]["lost, implied"]),
         *(told(data["cells"][name][f"{q}, against none"]) for q in QUALITIES)]
        for cause, name in data["alone"].items() if cause != "nothing"
    ]  # fmt: skip
    moved = [
        [escape(spoken(m["weight"])), told(m["accuracy"]), *(told(m[q]) for q in QUALITIES)]
        for m in data["moved"]
    ]
    chance = ", ".join(f"{q} {data['chance'][q]['value']:.3f}" for q in QUALITIES)
    return (
        f"<p>{data['pictures']} pictures; chance: {chance}.</p>"
        + table(head, rows)
        + "<h3>Each cause alone, and all three: change against the untouched model</h3>"
        + table(["cause", "accuracy, explained", "accuracy, implied", *QUALITIES], alone)
        + "<h3>One head: does the map move with the model?</h3>"
        + table(["spatial weight", "accuracy", *QUALITIES], moved)
    )


def _alignment(data: Part) -> str:
    parts: list[str] = []
    if data["family"] is not None:
        family = data["family"]
        graded = zip(family["names"], family["accuracy"], strict=True)
        head = ["method", *(f"{name} ({right['value']:.1%})" for name, right in graded)]
        head += ["rank correlation with accuracy", "worst model, over chance"]
        head += ["over random", "over center"]
        for quality in QUALITIES:
            rows = [
                [escape(name), *(_figure_of(g) for g in m[quality]["by grade"]),
                 told(m[quality]["rank correlation"]),
                 *(told(m[quality]["phantom"][f"over {x}"])
                   for x in ("chance", "random", "center"))]
                for name, m in family["methods"].items()
            ]  # fmt: skip
            parts.append(f"<h3>{quality}, by model (its accuracy)</h3>" + table(head, rows))
    head = ["method", "right", "wrong", "right less wrong, like with like"]
    for quality in QUALITIES:
        rows = [
            [
                escape(name),
                _figure_of(m[quality]["right"]),
                _figure_of(m[quality]["wrong"]),
                told(m[quality]["difference"]),
            ]
            for name, m in data["split"]["methods"].items()
        ]
        parts.append(f"<h3>{quality}, where the model is right and wrong</h3>" + table(head, rows))
    note = (
        f"<p>{data['pictures']} pictures; the model is right on "
        f"{percent(data['split']['accuracy'])}. Like with like: within as "
        "many objects and thirds of the named object's area.</p>"
    )
    return note + "".join(parts)


def _pictures(data: Part) -> str:
    parts = [
        f"<p>{data['pictures']} pictures among {data['classes']} names; unperturbed, the label is "
        f"the best match on {percent(data['best match is the label'])}.</p>"
    ]
    for protocol in data["protocols"]:
        kinds = protocol["kinds"]
        head = ["method", *(f"area, {kind}" for kind in kinds), "top-1, less random"]
        rows = [
            [
                escape(name),
                *(_figure_of(m[kind]["area"]) for kind in kinds),
                told(m[kinds[0]]["against random"]),
            ]
            for name, m in protocol["methods"].items()
        ]
        title = f"{protocol['name']}: {protocol['better']} is better, {protocol['fill']}"
        parts.append(f"<h3>{escape(title)}</h3>" + table(head, rows))
        pairs = [
            [
                escape(p["one"]),
                escape(p["other"]),
                *(told(p[k]) for k in p if k not in ("one", "other")),
            ]
            for p in protocol["pairs"]
        ]
        names = [k for k in protocol["pairs"][0] if k not in ("one", "other")]
        inside = table(["one", "less the other", *(f"{n}, difference" for n in names)], pairs)
        parts.append(f"<details><summary>Paired differences</summary>{inside}</details>")
    return "".join(parts)


def _captions(data: Part) -> str:
    parts = [f"<p>{data['captions']} captions, such as “{escape(data['example'])}”.</p>"]
    head = ["method", "area under the cosine", "less random", "less its reverse", "less grad-eclip"]
    for way, methods in data["ways"].items():
        rows = [
            [
                escape(name),
                _figure_of(m["area"]),
                *(told(m[f"against {x}"]) for x in ("random", "its reverse", "grad-eclip")),
            ]
            for name, m in methods.items()
        ]
        parts.append(f"<h3>{escape(way)}, lower is better</h3>" + table(head, rows))
    return "".join(parts)


_TABLES: dict[str, Callable[[Part], str]] = {
    "a": _equivalence,
    "b": _another,
    "c": _causes,
    "d": _alignment,
    "e pictures": _pictures,
    "e captions": _captions,
}


def _figure_of(interval: Part) -> str:
    if interval["value"] is None:
        return "not measured"
    if interval["low"] is None:
        return f"{interval['value']:.3f} <small>[no interval]</small>"
    return f"{interval['value']:.3f} <small>[{interval['low']:.3f}, {interval['high']:.3f}]</small>"
