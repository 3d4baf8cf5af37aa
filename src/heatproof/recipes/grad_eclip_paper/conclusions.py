"""(f) Conclusions, from the numbers alone: what holds on this model, and what does not.

A claim is `shown` where the 95 % interval lies on its side of zero, `contradicted` where it lies on
the other, and `not shown` where it holds zero; fewer than `FEWEST` pictures are `not measured`. No
claim is that two things are equal: an interval that holds zero bounds a difference and proves
nothing. No threshold was chosen by looking at results: the one tolerance, for equality in floating
point, is the square root of the precision.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from heatproof.evaluation.store import Part
from heatproof.recipes.grad_eclip_paper import simplicity
from heatproof.recipes.grad_eclip_paper.catalogue import ON_UNTOUCHED
from heatproof.statistics import FEWEST, spearman

Verdict = Literal["shown", "not shown", "contradicted", "not measured"]
TOLERANCE = {"float32": torch.finfo(torch.float32).eps ** 0.5, "float64": 2.0**-26}


@dataclass(frozen=True)
class Conclusion:
    """A claim of the paper, the verdict on this model, and its evidence."""

    section: str
    claim: str
    verdict: Verdict
    evidence: str


def conclude(sections: Mapping[str, Part | None]) -> list[Part]:
    """Return all conclusions that the measured sections allow; the others are `not measured`."""
    conclusions: list[Part] = []
    for section, claims in _CLAIMS:
        data = sections.get(section)
        if data is not None:
            conclusions += [asdict(conclusion) for conclusion in claims(data)]
    return conclusions


def side_of_zero(interval: Part, claimed: Literal["below", "above"]) -> Verdict:
    """Judge an interval: on the claimed side of zero, on the other side, or across it."""
    low, high = interval["low"], interval["high"]
    if low is None or high is None or interval["count"] < FEWEST:
        return "not measured"
    below, above = high < 0, low > 0
    if not (below or above):
        return "not shown"
    return "shown" if below == (claimed == "below") else "contradicted"


def told(interval: Part, unit: str = "") -> str:
    """Format as +0.123 [0.100, 0.140]."""
    if interval["value"] is None:
        return "no value"
    ends = (
        "no interval"
        if interval["low"] is None
        else f"{interval['low']:+.3f}, {interval['high']:+.3f}"
    )
    return f"{interval['value']:+.3f}{unit} [{ends}]"


def percent(interval: Part) -> str:
    """Format as 12.3 % [10.0 %, 14.1 %]."""
    if interval["value"] is None:
        return "no value"
    if interval["low"] is None:
        return f"{interval['value']:.1%} [no interval]"
    return f"{interval['value']:.1%} [{interval['low']:.1%}, {interval['high']:.1%}]"


# --- the claims -------------------------------------------------------------------------------


def _equivalence(data: Part) -> Iterator[Conclusion]:
    worst = {d: v for d, v in data["worst"].items() if v is not None}
    broken, empty = data["not finite"], data["all zero"] == len(data["rows"])
    holds = not broken and all(value <= TOLERANCE[dtype] for dtype, value in worst.items())
    nothing = not broken and (not worst or empty)
    figures = "; ".join(f"{v:.1e} in {d} (tolerance {TOLERANCE[d]:.1e})" for d, v in worst.items())
    yield Conclusion(
        "a",
        "Attention-ECLIP and Grad-ECLIP are the same map for every setting of the options.",
        "not measured" if nothing else "shown" if holds else "contradicted",
        f"{data['settings']} settings, {data['pictures']} pictures and captions: largest "
        f"difference, in units of the map's largest value, {figures or 'not measured'}."
        + (f" In {broken} comparisons the maps hold no numbers." if broken else "")
        + (" Every map is zero everywhere, which shows nothing." if empty and nothing else ""),
    )


def _simpler(data: Part) -> Iterator[Conclusion]:
    """Yield three verdicts in place of one; their rules are in `simplicity`."""
    ways, sizes, verdicts = data["ways"], data["sizes"], data["verdicts"]
    grad, attention = (ways[name] for name in simplicity.PUBLISHED)
    size = "{tokens} tokens, width {width}, {heads} heads".format(**sizes)
    yield Conclusion(
        "a",
        "Attention-ECLIP is simpler: it takes fewer quantities and no more code.",
        verdicts["quantities and code"],
        f"Out of the pass it takes {len(attention['captured'])} "
        f"({', '.join(attention['captured'])}), Grad-ECLIP {len(grad['captured'])} "
        f"({', '.join(grad['captured'])}); its map takes {attention['statements']} statements, "
        f"Grad-ECLIP's {grad['statements']}.",
    )
    names = simplicity.CHEAPEST
    cheap = [ways[name]["readout"] for name in names]
    work, peak, saved = (
        [counts[key] for counts in cheap]
        for key in ("multiply-adds, counted", "peak bytes", "saved bytes")
    )
    full = [ways[name]["all"]["multiply-adds, counted"] for name in simplicity.PUBLISHED]
    yield Conclusion(
        "a",
        "Attention-ECLIP is simpler: it takes less arithmetic.",
        verdicts["arithmetic"],
        f"Multiply-adds of one last layer ({size}), each in its cheapest form: "
        f"{work[0] / 1e6:.1f} M ({names[0]}) and {work[1] / 1e6:.1f} M ({names[1]}), "
        f"x{work[1] / work[0]:.4f}; equal within 1 %, since the backward pass of A v is g . v. As "
        f"published, over all rows: {full[0] / 1e6:.1f} M and {full[1] / 1e6:.1f} M, "
        f"x{full[1] / full[0]:.3f}.",
    )
    ratio = data["time ratio"]
    yield Conclusion(
        "a",
        "Attention-ECLIP is simpler: it takes less time and memory.",
        verdicts["time and memory"],
        f"In the same forms: peak {peak[0] / 1024:,.0f} and {peak[1] / 1024:,.0f} KiB "
        f"(x{peak[1] / peak[0]:.3f}), saved for the backward pass {saved[0] / 1024:,.0f} and "
        f"{saved[1] / 1024:,.0f} KiB; time x{ratio['value']:.3f} "
        f"[{ratio['low']:.3f}, {ratio['high']:.3f}], {data['threads']} thread(s).",
    )


def _another_model(data: Part) -> Iterator[Conclusion]:
    for task in data["tasks"]:
        forward, image, name = task["forward"], task["sides"]["image"], task["name"]
        flips = forward["best match changes"]
        yield Conclusion(
            "b",
            f"The scores that Grad-ECLIP explains are not those of the original model ({name}).",
            "shown" if forward["largest gap"] > TOLERANCE["float32"] else "contradicted",
            f"Mean gap of the cosine {forward['mean gap']['value']:.4f}, largest "
            f"{forward['largest gap']:.4f}; the original's cosines spread by "
            f"{forward['spread of the original']:.4f} over the {task['classes']} names.",
        )
        yield Conclusion(
            "b",
            f"In Grad-ECLIP's forward pass the best match of some pictures is another ({name}).",
            "shown" if flips["value"] else "not shown",
            f"The best match changes for {percent(flips)} of {task['pictures']} pictures; rank "
            f"correlation of all names {forward['rank correlation']['value']:.3f}.",
        )
        change = forward["accuracy change"]
        yield Conclusion(
            "b",
            f"The model that Grad-ECLIP explains is less accurate ({name}, last image layer).",
            side_of_zero(change, "below"),
            f"Accuracy {percent(image[0]['accuracy'])} becomes {percent(image[1]['accuracy'])}, a "
            f"change of {told(change)}, at an embedding cosine of "
            f"{image[1]['embedding cosine']['value']:.3f}; with every image layer one-headed "
            f"{percent(image[-1]['accuracy'])} (chance {task['chance']:.1%}).",
        )


def _causes(data: Part) -> Iterator[Conclusion]:
    cells, alone = data["cells"], data["alone"]
    published = cells[alone["all three, as published"]]
    for quality in ("choice", "pointing"):
        change = published[f"{quality}, against none"]
        yield Conclusion(
            "c",
            f"As published, the map localises worse than on the untouched model ({quality}).",
            side_of_zero(change, "below"),
            f"{quality} {published[quality]['value']:.3f} as published, "
            f"{cells[alone['nothing']][quality]['value']:.3f} on the untouched model with its own "
            f"attention and input: {told(change)}, {data['pictures']} pictures.",
        )
    for moved in data["moved"]:
        if moved["weight"] in ("loosened (output)", "attention"):
            yield from _follows(moved)


def _gap(data: Part) -> Iterator[Conclusion]:
    """Yield one claim per cause: does it explain some of the lost quality, whatever the order?"""
    lead = next(iter(data.get("gaps", {})), None)
    if lead is None:
        return
    gap, distance = data["gaps"][lead], data["gaps"]["distance"]
    side = "image" if "pictures" in data else "text"
    for cause, meaning in data["causes"].items():
        share = gap["shares"][cause]
        yield Conclusion(
            "c",
            f"Of the published map's gap, {cause} explains a part ({side} side, {lead}).",
            side_of_zero(share, "above"),
            f"{meaning[0].upper()}{meaning[1:]}. Its share: {told(share)} of "
            f"{told(gap['published'])} in {lead}, {told(distance['shares'][cause])} of "
            f"{told(distance['published'])} in distance from the model's own map.",
        )


def _follows(moved: Part) -> Iterator[Conclusion]:
    """Did the map move where the model did? A model that did not move is no test."""
    published = moved["weight"].startswith("loosened")
    unmoved = side_of_zero(moved["accuracy"], "below") != "shown"
    whose = "the published weight" if published else "the model's own attention"
    said = " The accuracy did not fall measurably, so nothing follows." if unmoved else ""
    evidence = (
        f"One head in the last layer: accuracy {told(moved['accuracy'])}, choice "
        f"{told(moved['choice'])}, pointing {told(moved['pointing'])}.{said}"
    )
    yield Conclusion(
        "c",
        f"One head makes the model worse, and the map with {whose} gets worse with it (choice).",
        "not measured" if unmoved else side_of_zero(moved["choice"], "below"),
        evidence,
    )
    if published:
        less = moved["choice, less than attention"]
        yield Conclusion(
            "c",
            "It gets less worse than the map with the model's own attention does (choice).",
            "not measured" if unmoved else side_of_zero(less, "above"),
            f"The change of choice, less that of the map with the model's attention: {told(less)}."
            + said,
        )


def _following(data: Part) -> Iterator[Conclusion]:
    """The claim itself first, then what it rests on: the blind model, then ladder by ladder."""
    published = data["methods"]["grad-eclip"]
    phantom, steps = _phantom(published["blind"]), _steps(published)
    unmoved, follows = (
        [name for name, step in steps.items() if step == kind] for kind in ("unmoved", "follows")
    )
    where = [*(["the blind model"] if phantom == "shown" else []), *unmoved]
    verdict: Verdict = "shown" if where else "contradicted" if follows else "not shown"
    if phantom == "not measured" and not (unmoved or follows):
        verdict = "not measured"
    partly = " (on some of the ladders)" if where and follows else ""
    yield Conclusion(
        "d",
        f"Grad-ECLIP's maps are misaligned with the model's performance{partly}.",
        verdict,
        f"Misaligned on: {', '.join(where) or 'nothing'}. In step with the model on: "
        f"{', '.join(follows) or 'nothing'}. Not decided: "
        f"{', '.join(n for n, s in steps.items() if s == 'cannot tell') or 'nothing'}. "
        f"No test: {', '.join(n for n, s in steps.items() if s == 'not asked') or 'nothing'}. "
        "The reason: the score's gradient times the values, g . v_i, is what the score would gain "
        "if the readout attended to patch i, whether or not it does.",
    )
    yield Conclusion(
        "d",
        "Grad-ECLIP finds the named object in a model that sees nothing (blind model).",
        phantom,
        published["blind"]["evidence"],
    )
    for name in ("attention-x-gradient", "gae"):
        blind = data["methods"][name]["blind"]
        yield Conclusion(
            "d",
            f"{name}: the map of a model that sees nothing is constant (blind model).",
            _CONSTANT.get(blind["verdict"], "not measured"),
            blind["evidence"],
        )
    for name in ("grad-eclip", "attention-x-gradient"):
        yield from _by_ladder(data, name)


_CONSTANT: dict[str, Verdict] = {"holds": "shown", "violated": "contradicted"}
_UNMOVED: dict[str, Verdict] = {
    "unmoved": "shown",
    "follows": "contradicted",
    "cannot tell": "not shown",
    "not asked": "not measured",
}


def _phantom(blind: Part) -> Verdict:
    """Judge the choice above chance of maps of the blind model; a constant map chooses nothing."""
    whole = blind.get("blind in", {}).get("every layer")
    if whole is None or whole["embeddings differ by"]:
        return "not measured"
    found = whole.get("phantom localisation")
    return "contradicted" if found is None else side_of_zero(found["value"], "above")


def _steps(method: Part) -> dict[str, str]:
    return {name: one["step"] for name, one in method["ladders"].items()}


def _by_ladder(data: Part, name: str) -> Iterator[Conclusion]:
    for ladder, one in data["methods"][name]["ladders"].items():
        kept = one["cause kept"]
        left = [share for share in kept if share is not None]
        yield Conclusion(
            "d",
            f"{name}: the map loses less than half of what the model loses (ladder: {ladder}).",
            _UNMOVED[one["step"]],
            one["why not"][:1].upper() + one["why not"][1:] + "."
            if one["why not"]
            else f"F {told(one['following'])} (0 unmoved, 1 in step), without the first rung "
            f"{told(one['without the first rung'])}; on the rungs the cause keeps "
            f"{_shares(kept)} of its d', the map {_shares(one['quality kept'])}, over "
            f"{len(left)} models.",
        )


def _shares(shares: list[float | None]) -> str:
    return ", ".join("no value" if share is None else f"{share:.0%}" for share in shares)


def _alignment(data: Part) -> Iterator[Conclusion]:
    """Within the model as it is: right against wrong answers."""
    for name in ("grad-eclip", ON_UNTOUCHED[0], "attention-x-gradient"):
        found = data["split"]["methods"][name]["choice"]
        yield Conclusion(
            "d",
            f"{name}: the map is better where the model is right than where it is wrong (choice).",
            side_of_zero(found["difference"], "above"),
            f"Choice {percent(found['right'])} where right ({found['right']['count']} pictures), "
            f"{percent(found['wrong'])} where wrong ({found['wrong']['count']}); right less wrong "
            f"among pictures with as many objects of like size {told(found['difference'])}.",
        )


def _pictures(data: Part) -> Iterator[Conclusion]:
    for protocol in data["protocols"]:
        better = protocol["better"]
        kind = "top-1"
        for rival in (ON_UNTOUCHED[0], "random"):
            pair = _pair(protocol["pairs"], rival, "grad-eclip", kind)
            claimed: Literal["below", "above"]
            if rival == "random":
                claimed = "above" if better == "lower" else "below"
                claim = f"Grad-ECLIP beats a random map ({protocol['name']})."
            else:
                claimed = "below" if better == "lower" else "above"
                claim = f"The untouched model's map beats Grad-ECLIP's ({protocol['name']})."
            yield Conclusion(
                "e",
                claim,
                side_of_zero(pair, claimed),
                f"Area under top-1 accuracy, {better} is better: grad-eclip "
                f"{_area(protocol, 'grad-eclip', kind)}, {rival} {_area(protocol, rival, kind)}; "
                f"{rival} less grad-eclip {told(pair)}.",
            )
    yield from _agreement(data)


def _agreement(data: Part) -> Iterator[Conclusion]:
    """Do the two protocols rank the methods alike?"""
    by_name = {p["name"]: p for p in data["protocols"]}
    for direction in ("deletion", "insertion"):
        one = by_name[f"authors', {direction}, label"]
        other = by_name[f"corrected, {direction}, label"]
        names = [n for n in one["methods"] if n not in ("attention-eclip", ON_UNTOUCHED[1])]
        areas = [
            torch.tensor([p["methods"][n]["top-1"]["area"]["value"] for n in names]).double()
            for p in (one, other)
        ]
        opposite = [
            f"{a['one']} / {a['other']}"
            for a, b in zip(one["pairs"], other["pairs"], strict=True)
            if _sign(a["top-1"]) * _sign(b["top-1"]) < 0
        ]
        yield Conclusion(
            "e",
            "The authors' protocol puts methods in another order than the corrected one does "
            f"({direction}).",
            "shown" if opposite else "not shown",
            f"Rank correlation of the methods' areas {float(spearman(*areas)):.2f}; pairs of "
            f"methods that the two put in opposite order, both measurably: "
            f"{', '.join(opposite) if opposite else 'none'}.",
        )


def _captions(data: Part) -> Iterator[Conclusion]:
    for way, methods in data["ways"].items():
        for name, said in (
            ("grad-eclip", "Grad-ECLIP"),
            (ON_UNTOUCHED[0], "The untouched model's map"),
        ):
            change = methods[name]["against random"]
            yield Conclusion(
                "e",
                f"{said} beats random order when text is deleted ({way}).",
                side_of_zero(change, "below"),
                f"Area under the cosine, lower is better, {data['captions']} captions: "
                f"{methods[name]['area']['value']:.3f}, less random {told(change)}.",
            )
        change = methods[ON_UNTOUCHED[0]]["against grad-eclip"]
        yield Conclusion(
            "e",
            f"The untouched model's map beats Grad-ECLIP's when text is deleted ({way}).",
            side_of_zero(change, "below"),
            f"Untouched less published: {told(change)}.",
        )


def _pair(pairs: list[Part], one: str, other: str, kind: str) -> Part:
    for each in pairs:
        if (each["one"], each["other"]) == (one, other):
            return each[kind]
        if (each["one"], each["other"]) == (other, one):
            value = each[kind]
            turned = {k: None if value[k] is None else -value[k] for k in ("value", "low", "high")}
            ends = {"low": turned["high"], "high": turned["low"]}
            return {**turned, **ends, "count": value["count"]}
    raise KeyError((one, other))


def _area(protocol: Part, method: str, kind: str) -> str:
    return f"{protocol['methods'][method][kind]['area']['value']:.3f}"


def _sign(interval: Part) -> int:
    return {"shown": 1, "contradicted": -1}.get(side_of_zero(interval, "above"), 0)


_CLAIMS: tuple[tuple[str, Callable[[Any], Iterator[Conclusion]]], ...] = (
    ("a", _equivalence),
    ("a simpler", _simpler),
    ("b", _another_model),
    ("c", _causes),
    ("c gap", _gap),
    ("c gap text", _gap),
    ("d following", _following),
    ("d", _alignment),
    ("e pictures", _pictures),
    ("e captions", _captions),
)
