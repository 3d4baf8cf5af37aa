"""Check that the score moves as the map's signs say when patches are hidden."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from heatproof import statistics
from heatproof.auditing.ablation import scores_without
from heatproof.auditing.base import (
    AuditCheck,
    CheckCard,
    CheckContext,
    Finding,
    Numbers,
    Verdict,
    register_check,
)
from heatproof.auditing.task import AuditTask, MapSource, PromptKind
from heatproof.auditing.verdicts import LEVEL, Comparison, compare_with_controls
from heatproof.evaluation.subject import Subject
from heatproof.metrics.ranking import ranked, shuffled
from heatproof.plots import chart
from heatproof.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Two sets of random patches: their mean is steadier, and each costs one pass per way of hiding.
RANDOM_SETS = 2
KINDS: tuple[PromptKind, PromptKind] = ("named", "other")
COLOURS = {"positive": chart.OURS, "positive, specific": "#86b1e0", "negative": chart.ORACLE}

Effects = dict[str, Float[Tensor, " image"]]
"""By way of hiding: an effect per image, positive where the score moves as the map says."""


@register_check
@dataclass(frozen=True)
class SignCheck(AuditCheck):
    """Hide one patch in `share`: the most positive, the most negative, the least by size.

    Effects are on the named prompt's score, in units of what random patches of the same number do
    by the same way of hiding, mean over ways (token removal, mean colour, blur, black). Positive
    patches are compared with those that the same method marks for another object of the image: a
    map that marks objects whatever it is asked gets exactly 0 there.

    images: how many images at most. share: 16 hides one patch in 16.
    """

    images: int = 100
    share: int = 16

    card = CheckCard(
        name="sign",
        title="sign",
        principle=2,
        place=5,
        question="When patches are hidden, does the score move as the map's signs say?",
    )

    def measure(self, subject: Subject, context: CheckContext) -> Finding:
        """Measure on images of two objects of different names."""
        task = context.task
        rows = (task.other >= 0).nonzero()[:, 0][: self.images]
        if not len(rows):
            text = "No image shows two objects of different names, which this check compares."
            return self.finding("cannot tell", text)
        count = max(1, task.grid[0] * task.grid[1] // self.share)
        comparison = compare_with_controls(
            task,
            subject,
            f"{self.card.title} {self.images} {self.share}",
            lambda method: statistics.mean(
                _pooled(_effects(task, method, rows, count)["positive, specific"]), level=LEVEL
            ),
        )
        effects = _effects(task, subject, rows, count)
        pooled = {claim: statistics.mean(_pooled(ways)) for claim, ways in effects.items()}
        numbers: dict[str, Any] = {
            "pictures": len(rows),
            "patches hidden": count,
            "units": "mean effect of as many random patches, by the same way of hiding",
            "effects": {
                claim: {
                    "all ways": pooled[claim].plain,
                    **{way: statistics.mean(values).plain for way, values in ways.items()},
                }
                for claim, ways in effects.items()
            },
            "positive, for this object and no other": comparison.numbers,
        }
        return self.finding(*_verdict(comparison, pooled), numbers)

    def figure(self, numbers: Numbers) -> "Figure | None":
        """Draw the effect of hiding patches: a row per way of hiding, a bar per claim."""
        effects: dict[str, Numbers] = numbers["effects"]
        claims = [*COLOURS, *(claim for claim in effects if claim not in COLOURS)]
        claims = [claim for claim in claims if claim in effects]
        ways = list(dict.fromkeys(way for by_way in effects.values() for way in by_way))
        if not claims or not ways:
            return None
        figure, (axes,) = chart.new_chart(len(ways) * len(claims) * 0.5)
        chart.label_rows(axes, ways)
        height = 0.8 / len(claims)
        for number, claim in enumerate(claims):
            for row, way in enumerate(ways):
                effect = chart.point(effects[claim].get(way))
                if effect is not None:
                    place = row + (number - (len(claims) - 1) / 2) * height
                    colour = COLOURS.get(claim, chart.RIVAL)
                    chart.bar(axes, place, effect, colour, height * 0.9)
        axes.axvline(0, color=chart.INK, linewidth=0.8)
        axes.set_xlabel("effect in the sign's direction (1 = that of random patches)")
        kinds = [(claim, COLOURS.get(claim, chart.RIVAL), "bar") for claim in claims]
        chart.legend(axes, kinds)
        return figure


def _verdict(comparison: Comparison, pooled: dict[str, Interval]) -> tuple[Verdict, str]:
    positive, negative = pooled["positive"], pooled["negative"]
    seen = (
        f"without the most positive patches the score falls by {positive} more than without random "
        f"ones, and by {comparison.statistic} more than without those of another object "
        f"(limit {comparison.limit:.3f} from the controls)"
    )
    if negative.count:
        seen += f"; without the most negative it rises by {negative} more than without random ones"
    if positive.high < 0:
        return "violated", f"The positive sign is wrong: {seen}."
    if negative.count and negative.high < 0:
        return "violated", f"The negative sign is wrong: {seen}."
    match comparison.outcome:
        case "passes" if positive.low > 0 and (not negative.count or negative.low > 0):
            return "holds", f"The signs are right: {seen}."
        case "fails":
            return "violated", (
                f"Positive patches belong to the named object no more than to another: {seen}."
            )
        case "passes":
            return "cannot tell", f"Not every sign is certain: {seen}."
        case _:
            why = comparison.why
            return "cannot tell", f"{why[0].upper()}{why[1:]}; {seen}."


# --- effects ----------------------------------------------------------------------------------


def _effects(task: AuditTask, subject: MapSource, rows: Tensor, count: int) -> dict[str, Effects]:
    """Return effects by claim and way of hiding."""
    return task.cached(
        ("effects", subject, len(rows), count), lambda: _measure(task, subject, rows, count)
    )


def _measure(task: AuditTask, subject: MapSource, rows: Tensor, count: int) -> dict[str, Effects]:
    here, there = (task.maps(subject, kind=kind)[rows] for kind in KINDS)
    # Where a map has too few negative patches, the most negative ones would be positive.
    enough = ((here < 0).sum((1, 2)) >= count).double()
    enough = enough.masked_fill(enough == 0, torch.nan)
    sets = {
        "positive": most(here, count, task.seed),
        "negative": most(-here, count, task.seed),
        "least": most(-here.abs(), count, task.seed),
        "other's positive": most(there, count, task.seed),
    }
    after = {name: _scores_without(task, rows, hidden) for name, hidden in sets.items()}
    before = task.scores()[rows].gather(1, task.named[rows, None])[:, 0]
    claims = ("positive", "negative", "least", "positive, specific")
    effects: dict[str, Effects] = {claim: {} for claim in claims}
    for way, random in _random(task, rows, count).items():
        unit = (before[:, None] - random).abs().mean()
        unit = unit.masked_fill(unit == 0, torch.nan)
        score = {name: scores[way] for name, scores in after.items()}
        usual = (before[:, None] - random).abs().mean(1)
        effects["positive"][way] = (random.mean(1) - score["positive"]) / unit
        effects["negative"][way] = (score["negative"] - random.mean(1)) / unit * enough
        effects["least"][way] = (usual - (before - score["least"]).abs()) / unit
        effects["positive, specific"][way] = (score["other's positive"] - score["positive"]) / unit
    return effects


def most(
    maps: Float[Tensor, "image row col"], count: int, seed: int = 0
) -> Bool[Tensor, "image row col"]:
    """Return the `count` highest patches of each map; ties are ordered at random per image."""
    flat = maps.flatten(1)
    ties = shuffled(torch.arange(len(flat)), flat.shape[1], seed).to(flat.device)
    order = ranked(flat, ties)[:, :count]
    chosen = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True)
    return chosen.view_as(maps)


def _scores_without(task: AuditTask, rows: Tensor, hidden: Tensor) -> Effects:
    """Return the named prompt's score with patches hidden, by way of hiding."""
    named = task.named[rows, None]
    return {
        way: scores.gather(1, named)[:, 0]
        for way, scores in scores_without(task, rows, hidden).items()
    }


def _random(task: AuditTask, rows: Tensor, count: int) -> dict[str, Float[Tensor, "image set"]]:
    """Return the named prompt's score with random patches hidden, by way of hiding."""

    def compute() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(task.seed)
        sets: list[Effects] = []
        for _ in range(RANDOM_SETS):
            noise = torch.rand(len(rows), *task.grid, generator=generator)
            sets.append(_scores_without(task, rows, most(noise, count)))
        return {way: torch.stack([scores[way] for scores in sets], 1) for way in sets[0]}

    return task.cached(("random patches", len(rows), count), compute)


def _pooled(ways: Effects) -> Float[Tensor, " image"]:
    return torch.stack(list(ways.values())).mean(0)
