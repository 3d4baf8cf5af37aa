"""Right and wrong: does the map lie on the object where the model is wrong, too?"""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from heatproof.auditing.bench import Bench, Mapped
from heatproof.auditing.finding import Finding
from heatproof.auditing.judging import LEVEL, held
from heatproof.auditing.subject import Subject
from heatproof.metrics import intervals
from heatproof.metrics.intervals import Interval

CHECK = "right and wrong"
QUESTION = "Is the map better where the model is right than where it is wrong?"
SIZES = 3


def right_wrong(subject: Subject, bench: Bench) -> Finding:
    """Choice above chance where the model is right, less where it is wrong, in matched pictures.

    The model is right where the named prompt outscores every absent one. Pictures are matched by
    the number of objects and by thirds of the named object's size, for both move the score of any
    map and of the model; strata weigh by their wrong pictures.
    """
    right = bench.right()
    judged = held(bench, subject, CHECK, lambda s: _matched(bench, s))
    gain, named = bench.gain(subject), bench.named >= 0
    chosen = gain + _chance(bench) > 0.5
    pointed = bench.on_object(subject) >= 0.5
    known = named & ~gain.isnan()
    cells = {
        f"model {word}": {
            "pictures": int((known & side).sum()),
            "map chooses the named object": _share(chosen, known & side).plain,
            "map points at it": _share(pointed, known & side).plain,
            "choice above chance": intervals.mean(gain[known & side]).plain,
        }
        for word, side in (("right", right), ("wrong", ~right))
    }
    unmatched = intervals.resampled(
        lambda rows: _difference(rows, gain, right, torch.zeros_like(bench.named)),
        len(bench),
        seed=bench.seed,
    )
    numbers: dict[str, Any] = {
        "cells": cells,
        "matched difference": judged.numbers,
        "unmatched difference": unmatched.plain,
        "matched by": f"number of objects, {SIZES} sizes of the named object",
    }
    wrong = intervals.mean(gain[known & ~right])
    seen = (
        f"choice above chance is {intervals.mean(gain[known & right])} where the model is right "
        f"({int((known & right).sum())} pictures) and {wrong} where it is wrong ({wrong.count}); "
        f"matched by size and number of objects they differ by {judged.statistic} (limit "
        f"{judged.limit:.3f} by the controls, a map that follows {judged.follower.value:.3f})"
    )
    match judged.outcome:
        case "passes":
            return Finding(CHECK, 2, QUESTION, "holds", f"The map tells: {seen}.", numbers)
        case "fails":
            text = f"The map is as good where the model is wrong: {seen}."
            if not wrong.low > 0:
                text = f"The map is no better where the model is right: {seen}."
            return Finding(CHECK, 2, QUESTION, "violated", text, numbers)
        case _:
            return Finding(CHECK, 2, QUESTION, "cannot tell", f"{seen}: {judged.why}.", numbers)


def _share(hits: Tensor, among: Tensor) -> Interval:
    return intervals.wilson(int((hits & among).sum()), int(among.sum()))


def _chance(bench: Bench) -> Float[Tensor, " image"]:
    return 1 / (bench.labels >= 0).sum(1).clamp(min=1).double()


def strata(bench: Bench) -> Int64[Tensor, " image"]:
    """Which pictures are alike in number of objects and size of the named one."""
    size = bench.cover(bench.named).mean((1, 2)).double()
    cuts = torch.quantile(size, torch.linspace(0, 1, SIZES + 1, dtype=torch.float64)[1:-1])
    number = (bench.labels >= 0).sum(1)
    return number * SIZES + torch.bucketize(size, cuts)


def _matched(bench: Bench, subject: Mapped) -> Interval:
    gain, right, alike = bench.gain(subject), bench.right(), strata(bench)
    return intervals.resampled(
        lambda rows: _difference(rows, gain, right, alike),
        len(bench),
        seed=bench.seed,
        level=LEVEL,
    )


def _difference(rows: Tensor, gain: Tensor, right: Tensor, alike: Tensor) -> Tensor:
    """Mean over strata of right less wrong, weighed by wrong pictures, for each draw of pictures."""
    times = torch.zeros(len(rows), len(gain), dtype=torch.float64)
    times.scatter_add_(1, rows, torch.ones_like(rows, dtype=torch.float64))
    known = ~gain.isnan()
    of = torch.nn.functional.one_hot(alike).double()
    counts, sums = (
        [times @ (of * (known & side)[:, None] * each[:, None]) for side in (right, ~right)]
        for each in (torch.ones_like(gain), gain.nan_to_num())
    )
    both = (counts[0] > 0) & (counts[1] > 0)
    means = [s / n.clamp(min=1) for s, n in zip(sums, counts, strict=True)]
    weight = counts[1] * both
    total = weight.sum(1)
    return ((means[0] - means[1]) * weight).sum(1) / total.masked_fill(total == 0, torch.nan)
