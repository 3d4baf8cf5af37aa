"""Sign: does the score fall without the most positive patches, and rise without the negative?"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from heatproof import statistics
from heatproof.auditing.ablation import scores_without
from heatproof.auditing.base import Finding
from heatproof.auditing.task import AuditTask, Kind, Mapped
from heatproof.auditing.verdicts import LEVEL, Judged, held
from heatproof.evaluation.subject import Subject
from heatproof.metrics.ranking import ranked, shuffled
from heatproof.statistics import Interval

CHECK = "sign"
QUESTION = "When patches are hidden, does the score move as the map's signs say?"
RANDOM_SETS = 2

Scores = dict[str, Float[Tensor, " image"]]


def sign(subject: Subject, bench: AuditTask, *, scenes: int = 100, share: int = 16) -> Finding:
    """Hide one patch in `share`: the most positive, the most negative, the least by size.

    Effects are on the named prompt's score, in units of what random patches of the same number do
    by the same way of hiding, mean over ways (token removal, mean colour, blur, black). Positive
    patches are held to those that the same method finds for another object of the picture: a map
    that finds objects whatever it is asked gets exactly 0 there.
    """
    rows = (bench.other >= 0).nonzero()[:, 0][:scenes]
    if not len(rows):
        text = "No picture shows two objects of different names, which this check compares."
        return Finding(CHECK, 2, QUESTION, "cannot tell", text)
    count = max(1, bench.grid[0] * bench.grid[1] // share)
    judged = held(
        bench, subject, f"{CHECK} {scenes} {share}", lambda s: _specific(bench, s, rows, count)
    )
    effects = _effects(bench, subject, rows, count)
    pooled = {name: statistics.mean(_pooled(ways)) for name, ways in effects.items()}
    numbers: dict[str, Any] = {
        "pictures": len(rows),
        "patches hidden": count,
        "units": "mean effect of as many random patches, by the same way of hiding",
        "effects": {
            name: {
                "all ways": pooled[name].plain,
                **{way: statistics.mean(values).plain for way, values in ways.items()},
            }
            for name, ways in effects.items()
        },
        "positive, for this object and no other": judged.numbers,
    }
    return _found(judged, pooled, numbers)


def _found(judged: Judged, pooled: dict[str, Interval], numbers: dict[str, Any]) -> Finding:
    positive, negative = pooled["positive"], pooled["negative"]
    seen = (
        f"without the most positive patches the score falls by {positive} more than without random "
        f"ones, and by {judged.statistic} more than without those of another object (limit "
        f"{judged.limit:.3f} by the controls)"
    )
    if negative.count:
        seen += f"; without the most negative it rises by {negative} more than without random ones"
    if positive.high < 0:
        text = f"The positive sign is wrong: {seen}."
        return Finding(CHECK, 2, QUESTION, "violated", text, numbers)
    if negative.count and negative.high < 0:
        text = f"The negative sign is wrong: {seen}."
        return Finding(CHECK, 2, QUESTION, "violated", text, numbers)
    match judged.outcome:
        case "passes" if positive.low > 0 and (not negative.count or negative.low > 0):
            return Finding(CHECK, 2, QUESTION, "holds", f"The signs are right: {seen}.", numbers)
        case "fails":
            text = f"Positive patches are no more the named object's than another's: {seen}."
            return Finding(CHECK, 2, QUESTION, "violated", text, numbers)
        case "passes":
            return Finding(CHECK, 2, QUESTION, "cannot tell", f"Not every sign: {seen}.", numbers)
        case _:
            return Finding(CHECK, 2, QUESTION, "cannot tell", f"{judged.why}; {seen}.", numbers)


# --- effects ----------------------------------------------------------------------------------


def _specific(bench: AuditTask, subject: Mapped, rows: Tensor, count: int) -> Interval:
    return statistics.mean(
        _pooled(_effects(bench, subject, rows, count)["positive, specific"]), level=LEVEL
    )


def _effects(bench: AuditTask, subject: Mapped, rows: Tensor, count: int) -> dict[str, Scores]:
    """By claim and way of hiding: positive where the score moves as the map says."""
    return bench.kept(
        ("effects", subject, len(rows), count), lambda: _measured(bench, subject, rows, count)
    )


def _measured(bench: AuditTask, subject: Mapped, rows: Tensor, count: int) -> dict[str, Scores]:
    here, there = (bench.maps(subject, kind=kind)[rows] for kind in _KINDS)
    enough = ((here < 0).sum((1, 2)) >= count).double()
    enough = enough.masked_fill(enough == 0, torch.nan)
    sets = {
        "positive": most(here, count, bench.seed),
        "negative": most(-here, count, bench.seed),
        "least": most(-here.abs(), count, bench.seed),
        "other's positive": most(there, count, bench.seed),
    }
    after = {name: _without(bench, rows, hidden) for name, hidden in sets.items()}
    chance = _random(bench, rows, count)
    before = bench.scores()[rows].gather(1, bench.named[rows, None])[:, 0]
    found: dict[str, Scores] = {
        name: {} for name in ("positive", "negative", "least", "positive, specific")
    }
    for way, random in chance.items():
        unit = (before[:, None] - random).abs().mean()
        unit = unit.masked_fill(unit == 0, torch.nan)
        mean, at = random.mean(1), {name: scores[way] for name, scores in after.items()}
        usual = (before[:, None] - random).abs().mean(1)
        found["positive"][way] = (mean - at["positive"]) / unit
        found["negative"][way] = (at["negative"] - mean) / unit * enough
        found["least"][way] = (usual - (before - at["least"]).abs()) / unit
        found["positive, specific"][way] = (at["other's positive"] - at["positive"]) / unit
    return found


_KINDS: tuple[Kind, Kind] = ("named", "other")


def most(
    maps: Float[Tensor, "image row col"], count: int, seed: int = 0
) -> Bool[Tensor, "image row col"]:
    """The `count` highest patches of each map; where they tie, an order drawn for each image."""
    flat = maps.flatten(1)
    ties = shuffled(torch.arange(len(flat)), flat.shape[1], seed).to(flat.device)
    order = ranked(flat, ties)[:, :count]
    chosen = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True)
    return chosen.view_as(maps)


def _without(bench: AuditTask, rows: Tensor, hidden: Tensor) -> Scores:
    named = bench.named[rows, None]
    return {
        way: scores.gather(1, named)[:, 0]
        for way, scores in scores_without(bench, rows, hidden).items()
    }


def _random(bench: AuditTask, rows: Tensor, count: int) -> dict[str, Float[Tensor, "image set"]]:
    def make() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(bench.seed)
        sets: list[Scores] = []
        for _ in range(RANDOM_SETS):
            noise = torch.rand(len(rows), *bench.grid, generator=generator)
            sets.append(_without(bench, rows, most(noise, count)))
        return {way: torch.stack([each[way] for each in sets], 1) for way in sets[0]}

    return bench.kept(("random patches", len(rows), count), make)


def _pooled(ways: Scores) -> Float[Tensor, " image"]:
    return torch.stack(list(ways.values())).mean(0)
