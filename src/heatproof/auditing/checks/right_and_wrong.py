"""Check that a map is better where the model is right than where it is wrong."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from heatproof import statistics
from heatproof.auditing.base import (
    AuditCheck,
    CheckCard,
    CheckContext,
    Finding,
    Numbers,
    register_check,
)
from heatproof.auditing.drawing import reference
from heatproof.auditing.task import QUALITY, AuditTask, MapSource, PromptKind
from heatproof.auditing.verdicts import LEVEL, compare_with_controls
from heatproof.evaluation.subject import Subject
from heatproof.plots import chart
from heatproof.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = 3
WIDE = 0.25
"""The 99 % interval of the matched difference is narrow enough at this width."""
MOST = 5
"""How many times the images of the audit are asked at most, where more can be drawn."""
# Two objects of each image are asked for: twice the evidence from the same images.
ASKED: tuple[PromptKind, ...] = ("named", "other")


@register_check
@dataclass(frozen=True)
class RightAndWrongCheck(AuditCheck):
    """Compare choice above chance where the model is right and where it is wrong.

    The model is right where the prompt outscores every absent one, wrong where it outscores no more
    than half of them, which is chance; what lies between says nothing of either. Questions are
    matched by the number of objects and by thirds of the object's size, for both change the quality
    of any map and the accuracy of the model; strata weigh by their wrong questions.

    Few models are wrong often. Where more images can be drawn (rendered scenes), they are: as many
    again, until the interval is at most `WIDE` = 0.25 wide or `MOST` = 5 times the images are
    asked. The width decides, and never the verdict; method and controls get the same images.
    """

    card = CheckCard(
        name="right-and-wrong",
        title="right and wrong",
        principle=2,
        place=3,
        question="Is the map better where the model is right than where it is wrong?",
        answers="tracking",
    )

    def measure(self, subject: Subject, context: CheckContext) -> Finding:
        """Compare both sides within matched questions."""
        task = context.task
        tasks = _enough(task, subject)
        (right, wrong), quality = _sides(tasks), _quality(tasks, subject)
        comparison = compare_with_controls(
            task,
            subject,
            f"{self.card.title} on {len(tasks)} draws",
            lambda method: _matched_difference(tasks, method),
        )
        sides = {"right": right, "between": ~right & ~wrong, "wrong": wrong}
        known = ~quality.isnan()
        cells = {
            f"model {name}": _cell_numbers(tasks, subject, known & side)
            for name, side in sides.items()
        }
        # The unmatched difference is reported beside it: it shows what matching takes away.
        one_stratum = torch.zeros_like(strata(tasks))
        unmatched = _interval(quality, right, wrong, one_stratum, statistics.LEVEL)
        numbers: dict[str, Any] = {
            "cells": cells,
            "images": len(quality),
            "matched difference": comparison.numbers,
            "unmatched difference": unmatched.plain,
            "matched by": f"number of objects, {SIZES} sizes of the object",
        }
        where_right, where_wrong = (
            statistics.mean(quality[known & side], bounds=QUALITY) for side in (right, wrong)
        )
        seen = (
            f"choice above chance is {where_right} where the model is right "
            f"({where_right.count} questions) and {where_wrong} where it is wrong "
            f"({where_wrong.count}), on {len(quality)} images; matched by size and number of "
            f"objects, the difference is {comparison.statistic} ({comparison.limits})"
        )
        verdict, evidence = comparison.verdict(
            seen,
            passes="The map is better where the model is right",
            fails="The map differs less than half as much as the oracle control's",
        )
        return self.finding(verdict, evidence, numbers)

    def figure(self, numbers: Numbers) -> "Figure | None":
        """Draw how often the map is on the object, by whether the model is right."""
        cells: dict[str, Numbers] = numbers["cells"]
        if not cells:
            return None
        figure, (shares, qualities) = chart.new_chart(len(cells) * 1.5, 2)
        names = [f"{name}\n({cell['questions']} questions)" for name, cell in cells.items()]
        chart.label_rows(shares, names)
        chart.label_rows(qualities, [""] * len(cells))
        for row, cell in enumerate(cells.values()):
            chosen = chart.point(cell["map chooses the object"])
            if chosen is not None:
                missed = 1 - chosen.value
                rest = shares.barh([row], [missed], 0.6, chosen.value, color=chart.RIVAL, alpha=0.3)
                rest.patches[0].set_gid(chart.gid("rest"))
                chart.bar(shares, row, chosen)
            quality = chart.point(cell["choice above chance"])
            if quality is not None:
                chart.dot(qualities, quality, row, name="gain")
        shares.set_xlim(0, 1)
        shares.set_xlabel("share of questions")
        kinds = [("map on the object", chart.OURS, "bar"), ("map elsewhere", "#d6d6da", "bar")]
        chart.legend(shares, kinds)
        reference(qualities, "chance", x=0)
        qualities.set_xlabel("choice above chance")
        return figure


def _cell_numbers(
    tasks: Sequence[AuditTask], subject: MapSource, among: Bool[Tensor, "image asked"]
) -> dict[str, Any]:
    """Count how often the map is on the object; questions count as if they were independent."""
    quality = _quality(tasks, subject)
    # A map that chooses among the objects at random is right this often.
    chance = torch.cat([1 / (task.labels >= 0).sum(1).clamp(min=1).double() for task in tasks])
    chosen = quality + chance[:, None] > 0.5
    pointed = _asked(tasks, lambda task, kind: task.pointing(subject, kind)) >= 0.5
    return {
        "questions": int(among.sum()),
        "map chooses the object": _share(chosen, among).plain,
        "map points at it": _share(pointed, among).plain,
        "choice above chance": statistics.mean(quality[among], bounds=QUALITY).plain,
    }


def _share(hits: Tensor, among: Tensor) -> Interval:
    return statistics.wilson(int((hits & among).sum()), int(among.sum()))


def _asked(
    tasks: Sequence[AuditTask], measure: Callable[[AuditTask, PromptKind], Tensor]
) -> Float[Tensor, "image asked"]:
    """Return a value of each question, the images of all tasks below each other."""
    return torch.cat([torch.stack([measure(task, kind) for kind in ASKED], 1) for task in tasks])


def _enough(task: AuditTask, subject: MapSource) -> list[AuditTask]:
    """Return the task and as many further ones as make the interval narrow enough."""
    tasks = [task]
    while len(tasks) < MOST:
        interval = _matched_difference(tasks, subject)
        if interval.high - interval.low <= WIDE:
            break
        further = task.further(len(tasks))
        if further is None:
            break
        tasks.append(further)
    return tasks


def _sides(
    tasks: Sequence[AuditTask],
) -> tuple[Bool[Tensor, "image asked"], Bool[Tensor, "image asked"]]:
    """Return where the model is right, and where it is wrong."""
    outscored = _asked(tasks, lambda task, kind: task.outscored(kind=kind))
    # Between the two lie near misses, which are neither.
    return outscored == 1, outscored <= 0.5


def _quality(tasks: Sequence[AuditTask], subject: MapSource) -> Float[Tensor, "image asked"]:
    return _asked(tasks, lambda task, kind: task.quality(subject, kind=kind))


def strata(tasks: Sequence[AuditTask]) -> Int64[Tensor, "image asked"]:
    """Number the questions by how many objects there are and how large the named one is."""
    size = _asked(tasks, lambda task, kind: task.cover(task.label(kind)).mean((1, 2)).double())
    cuts = torch.quantile(size, torch.linspace(0, 1, SIZES + 1, dtype=torch.float64)[1:-1])
    objects = torch.cat([(task.labels >= 0).sum(1, keepdim=True) for task in tasks])
    return objects * SIZES + torch.bucketize(size, cuts)


def _matched_difference(tasks: Sequence[AuditTask], subject: MapSource) -> Interval:
    (right, wrong), quality = _sides(tasks), _quality(tasks, subject)
    return _interval(quality, right, wrong, strata(tasks), LEVEL)


def _interval(
    quality: Tensor, right: Tensor, wrong: Tensor, stratum: Tensor, level: float
) -> Interval:
    """Return the difference and its interval, leaving out one image at a time.

    The interval is unbounded where either side has fewer questions than can carry a verdict.
    """
    interval = statistics.jackknife(
        lambda rows: difference(rows, quality, right, wrong, stratum),
        len(quality),
        bounds=QUALITY,
        level=level,
    )
    sides = [int((side & ~quality.isnan()).sum()) for side in (right, wrong)]
    if min(sides) < statistics.FEWEST and not math.isnan(interval.value):
        return Interval(interval.value, -math.inf, math.inf, interval.count)
    return interval


def difference(
    rows: Int64[Tensor, "draw drawn"],
    quality: Float[Tensor, "image asked"],
    right: Bool[Tensor, "image asked"],
    wrong: Bool[Tensor, "image asked"],
    stratum: Int64[Tensor, "image asked"],
) -> Float[Tensor, " draw"]:
    """Return right less wrong within strata, weighed by wrong questions, per draw of images.

    NaN where no stratum has both.
    """
    times = torch.zeros(len(rows), len(quality), dtype=torch.float64)
    # Each draw leaves out or repeats images: their questions count that often.
    times.scatter_add_(1, rows, torch.ones_like(rows, dtype=torch.float64))
    member = torch.nn.functional.one_hot(stratum).double() * (~quality.isnan()).unsqueeze(-1)
    values = quality.double().nan_to_num().unsqueeze(-1)
    sides = [member * side.unsqueeze(-1) for side in (right, wrong)]
    counts = [times @ side.sum(1) for side in sides]
    sums = [times @ (side * values).sum(1) for side in sides]
    # clamp: an empty stratum has weight 0 below, and its mean must not be NaN
    means = [total / count.clamp(min=1) for total, count in zip(sums, counts, strict=True)]
    # Weighed by wrong questions: they are the fewer and decide what can be said.
    weight = counts[1] * ((counts[0] > 0) & (counts[1] > 0))
    total = weight.sum(1)
    return ((means[0] - means[1]) * weight).sum(1) / total.masked_fill(total == 0, torch.nan)
