"""Right and wrong: does the map lie on the object where the model is wrong, too?"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from heatproof import statistics
from heatproof.auditing.base import Finding
from heatproof.auditing.task import GAIN, AuditTask, Kind, Mapped
from heatproof.auditing.verdicts import LEVEL, held
from heatproof.evaluation.subject import Subject
from heatproof.statistics import Interval

CHECK = "right and wrong"
QUESTION = "Is the map better where the model is right than where it is wrong?"
SIZES = 3
ASKED: tuple[Kind, ...] = ("named", "other")
"""Two objects of each picture are asked for: twice the evidence from the same pictures."""


def right_wrong(subject: Subject, bench: AuditTask) -> Finding:
    """Choice above chance where the model is right, less where it is wrong, in matched pictures.

    The model is right where the prompt outscores every absent one, wrong where it outscores no more
    than half of them, which is chance; what lies between tells nothing of either. Questions are
    matched by the number of objects and by thirds of the object's size, for both move the score of
    any map and of the model; strata weigh by their wrong questions. Intervals of the difference
    leave out one picture at a time.
    """
    (right, wrong), gain = _sides(bench), _gain(bench, subject)
    judged = held(bench, subject, CHECK, lambda s: _matched(bench, s))
    known = ~gain.isnan()
    sides = {"right": right, "between": ~right & ~wrong, "wrong": wrong}
    cells = {f"model {k}": _cell(bench, subject, known & side) for k, side in sides.items()}
    unmatched = _interval(gain, right, wrong, torch.zeros_like(strata(bench)), statistics.LEVEL)
    numbers: dict[str, Any] = {
        "cells": cells,
        "matched difference": judged.numbers,
        "unmatched difference": unmatched.plain,
        "matched by": f"number of objects, {SIZES} sizes of the object",
    }
    on, off = (statistics.mean(gain[known & side], bounds=GAIN) for side in (right, wrong))
    seen = (
        f"choice above chance is {on} where the model is right ({on.count} questions) and {off} "
        f"where it is wrong ({off.count}); matched by size and number of objects they differ by "
        f"{judged.statistic} (limit {judged.limit:.3f} by the controls, a map that follows "
        f"{judged.follower.value:.3f})"
    )
    match judged.outcome:
        case "passes":
            return Finding(CHECK, 2, QUESTION, "holds", f"The map tells: {seen}.", numbers)
        case "fails":
            text = f"The map tells less than half as well as one that follows: {seen}."
            return Finding(CHECK, 2, QUESTION, "violated", text, numbers)
        case _:
            return Finding(CHECK, 2, QUESTION, "cannot tell", f"{seen}: {judged.why}.", numbers)


def _cell(bench: AuditTask, subject: Mapped, among: Bool[Tensor, "image asked"]) -> dict[str, Any]:
    """How often the map is on the object; questions are counted as if independent."""
    gain = _gain(bench, subject)
    chosen = gain + _chance(bench)[:, None] > 0.5
    pointed = torch.stack([bench.pointing(subject, kind) for kind in ASKED], 1) >= 0.5
    return {
        "questions": int(among.sum()),
        "map chooses the object": _share(chosen, among).plain,
        "map points at it": _share(pointed, among).plain,
        "choice above chance": statistics.mean(gain[among], bounds=GAIN).plain,
    }


def _share(hits: Tensor, among: Tensor) -> Interval:
    return statistics.wilson(int((hits & among).sum()), int(among.sum()))


def _chance(bench: AuditTask) -> Float[Tensor, " image"]:
    return 1 / (bench.labels >= 0).sum(1).clamp(min=1).double()


def _sides(bench: AuditTask) -> tuple[Bool[Tensor, "image asked"], Bool[Tensor, "image asked"]]:
    """Where the model is right, and where it is wrong."""
    beaten = torch.stack([bench.beaten(kind=kind) for kind in ASKED], 1)
    return beaten == 1, beaten <= 0.5


def _gain(bench: AuditTask, subject: Mapped) -> Float[Tensor, "image asked"]:
    return torch.stack([bench.gain(subject, kind=kind) for kind in ASKED], 1)


def strata(bench: AuditTask) -> Int64[Tensor, "image asked"]:
    """Which questions are alike in number of objects and size of the one asked for."""
    covers = [bench.cover(bench.label(kind)).mean((1, 2)).double() for kind in ASKED]
    size = torch.stack(covers, 1)
    cuts = torch.quantile(size, torch.linspace(0, 1, SIZES + 1, dtype=torch.float64)[1:-1])
    number = (bench.labels >= 0).sum(1, keepdim=True)
    return number * SIZES + torch.bucketize(size, cuts)


def _matched(bench: AuditTask, subject: Mapped) -> Interval:
    (right, wrong), gain, alike = _sides(bench), _gain(bench, subject), strata(bench)
    return _interval(gain, right, wrong, alike, LEVEL)


def _interval(gain: Tensor, right: Tensor, wrong: Tensor, alike: Tensor, level: float) -> Interval:
    """Of `difference`; none where either side has fewer questions than bear a verdict."""
    found = statistics.jackknife(
        lambda rows: difference(rows, gain, right, wrong, alike),
        len(gain),
        bounds=GAIN,
        level=level,
    )
    sides = [int((side & ~gain.isnan()).sum()) for side in (right, wrong)]
    if min(sides) < statistics.FEWEST and not math.isnan(found.value):
        return Interval(found.value, -math.inf, math.inf, found.count)
    return found


def difference(
    rows: Int64[Tensor, "draw drawn"],
    gain: Float[Tensor, "image asked"],
    right: Bool[Tensor, "image asked"],
    wrong: Bool[Tensor, "image asked"],
    alike: Int64[Tensor, "image asked"],
) -> Float[Tensor, " draw"]:
    """Right less wrong within strata, weighed by wrong questions, for each draw of pictures.

    NaN where no stratum has both.
    """
    times = torch.zeros(len(rows), len(gain), dtype=torch.float64)
    times.scatter_add_(1, rows, torch.ones_like(rows, dtype=torch.float64))
    of = torch.nn.functional.one_hot(alike).double() * (~gain.isnan()).unsqueeze(-1)
    values = gain.double().nan_to_num().unsqueeze(-1)
    sides = [of * side.unsqueeze(-1) for side in (right, wrong)]
    counts = [times @ side.sum(1) for side in sides]
    sums = [times @ (side * values).sum(1) for side in sides]
    means = [total / count.clamp(min=1) for total, count in zip(sums, counts, strict=True)]
    weight = counts[1] * ((counts[0] > 0) & (counts[1] > 0))
    total = weight.sum(1)
    return ((means[0] - means[1]) * weight).sum(1) / total.masked_fill(total == 0, torch.nan)
