"""Graded family: are maps good where the model is good, and no good where it is at chance?"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from heatproof import statistics
from heatproof.auditing.base import Finding, Verdict
from heatproof.auditing.task import GAIN, AuditTask, Mapped
from heatproof.auditing.verdicts import LEVEL, Judged, held
from heatproof.evaluation.subject import Subject
from heatproof.evaluation.variants import Usable, Variant, family, usable
from heatproof.statistics import SHARE, Interval

CHECK = "graded family"
QUESTION = "Over models from chance to trained, do maps become better as the model does?"


def graded(subject: Subject, bench: AuditTask) -> Finding:
    """Choice above chance (maps) against the share of absent prompts beaten (model).

    Three figures: the rank correlation over models; the rise in quality from the least accurate
    model to the most accurate one, held to the controls; and phantom localisation, the quality in a
    model at chance, over what noise, a bump in the middle and a map that follows reach there.
    """
    models = ordered(bench)
    worst, best = models[0], models[-1]
    at_chance = accuracy(bench, worst)
    ranks = correlation(bench, subject, models)
    rise = held(
        bench,
        subject,
        f"{CHECK}: rise",
        lambda s: statistics.paired(
            _gain(bench, s, best), _gain(bench, s, worst), bounds=SHARE, level=LEVEL
        ),
    )
    over = {
        name: statistics.paired(
            _gain(bench, subject, worst),
            _gain(bench, other, worst),
            bounds=SHARE,
            level=LEVEL,
        )
        for name, other in _rivals(bench).items()
        if other != subject
    }
    phantom = _contains_chance(at_chance) and all(each.low > 0 for each in over.values())
    numbers: dict[str, Any] = {
        "models": [
            {
                "model": each.name,
                "accuracy": accuracy(bench, each).plain,
                "quality": statistics.mean(_gain(bench, subject, each), bounds=GAIN).plain,
                "controls": {
                    name: statistics.mean(_gain(bench, other, each), bounds=GAIN).plain
                    for name, other in _rivals(bench).items()
                },
            }
            for each in models
        ],
        "left out": dict(_family(bench).left_out),
        "accuracy": "share of absent prompts that the named one outscores; chance is 0.5",
        "quality": "choice above chance",
        "rank correlation": ranks.plain,
        "rise": rise.numbers,
        "phantom over": {name: each.plain for name, each in over.items()},
        "phantom": phantom,
    }
    verdict, evidence = _verdict(bench, models, ranks, rise, phantom, over)
    return Finding(CHECK, 2, QUESTION, verdict, evidence, numbers)


def _verdict(
    bench: AuditTask,
    models: Sequence[Variant],
    ranks: Interval,
    rise: Judged,
    phantom: bool,
    over: dict[str, Interval],
) -> tuple[Verdict, str]:
    worst, best = accuracy(bench, models[0]), accuracy(bench, models[-1])
    span = f"from {worst.value:.2f} to {best.value:.2f} over {len(models)} models"
    moved = (
        f"while the model's accuracy rises {span}, choice above chance rises by {rise.statistic} "
        f"(limit {rise.limit:.3f} by the controls, a map that follows {rise.follower.value:.3f}), "
        f"rank correlation {ranks}"
    )
    if not best.low > worst.high:
        return "cannot tell", f"No graded family here: accuracy goes {span} only."
    if rise.outcome in ("broken", "blunt"):
        return "cannot tell", f"{rise.why}; {moved}."
    if phantom:
        least = min(over.values(), key=lambda each: each.low)
        return "violated", (
            f"Phantom localisation: where the model is at chance ({worst}), the map still finds "
            f"the object, {least} above the best of noise, a bump in the middle and a map that "
            f"follows; {moved}."
        )
    if rise.outcome == "passes" and ranks.low > 0:
        return "holds", f"The map follows: {moved}."
    if rise.outcome == "fails":
        return "violated", f"The map follows less than half as far as it should: {moved}."
    return "cannot tell", f"{moved}: {_unclear(rise, ranks)}."


def _unclear(rise: Judged, ranks: Interval) -> str:
    return rise.why if rise.outcome == "unclear" else f"the order over models is unsure ({ranks})"


def ordered(bench: AuditTask) -> tuple[Variant, ...]:
    """The family from the least accurate model to the most accurate."""

    def make() -> tuple[Variant, ...]:
        return tuple(
            sorted(_family(bench).variants, key=lambda v: float(bench.beaten(v).nanmean()))
        )

    return bench.kept(("family",), make)


def _family(bench: AuditTask) -> Usable:
    every = family(bench.model, bench.attention_layers, seed=bench.seed)
    return bench.kept(("usable family",), lambda: usable(every, bench.scores))


def accuracy(bench: AuditTask, variant: Variant) -> Interval:
    return statistics.mean(bench.beaten(variant), bounds=SHARE)


def _contains_chance(found: Interval) -> bool:
    return found.low <= 0.5


def _rivals(bench: AuditTask) -> dict[str, Mapped]:
    return {
        "random": bench.controls["random"],
        "center": bench.controls["center"],
        bench.follower.name: bench.follower,
    }


def _gain(bench: AuditTask, subject: Mapped, variant: Variant) -> Tensor:
    """Methods that use chance draw anew for every model: the last one, as it is, has draw 0."""
    models = ordered(bench)
    return bench.gain(subject, variant, draw=len(models) - 1 - models.index(variant))


def correlation(bench: AuditTask, subject: Mapped, models: Sequence[Variant]) -> Interval:
    """Spearman's correlation over models of mean accuracy and mean quality, resampled over
    pictures: both change with the pictures that are drawn."""
    accuracies = torch.stack([bench.beaten(each) for each in models], 1)
    qualities = torch.stack([_gain(bench, subject, each) for each in models], 1)
    both = ~(accuracies.isnan() | qualities.isnan()).any(1)
    a, q = accuracies[both], qualities[both]

    def statistic(rows: Tensor) -> Tensor:
        # A constant follows nothing: 0, where the correlation has no value.
        return statistics.spearman(a[rows].mean(1), q[rows].mean(1)).nan_to_num(0)

    return statistics.bootstrap(statistic, len(a), seed=bench.seed)
