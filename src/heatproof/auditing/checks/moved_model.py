"""Moved model, unmoved map: when the model gets worse, does its map?"""

from typing import Any

import torch
from torch import Tensor

from heatproof import statistics
from heatproof.auditing.base import Finding
from heatproof.auditing.task import GAIN, AuditTask, Mapped
from heatproof.auditing.verdicts import LEVEL, held
from heatproof.engine.following import change
from heatproof.evaluation.subject import Subject
from heatproof.evaluation.variants import UNTOUCHED, Usable, Variant, interventions, usable
from heatproof.statistics import SHARE, Interval

CHECK = "moved model, unmoved map"
QUESTION = "Where an intervention costs the model performance, does the map lose quality with it?"
UNMOVED = 1e-6
"""1 - cosine below which two maps differ by rounding alone (float32 maps, some thousand steps)."""


def moved(subject: Subject, bench: AuditTask) -> Finding:
    """Mean loss of quality over all interventions that cost accuracy, held to the controls.

    Besides, a map that an intervention leaves as it was, to rounding, while accuracy moved, is a
    violation of its own: no statistics are needed to see it.
    """
    tried, costly = measured(bench), costing(bench)
    if not costly:
        most = max((loss(bench, each).value for each in tried), default=0.0)
        text = f"No intervention costs this model accuracy measurably here (at most {most:.3f})."
        return Finding(CHECK, 2, QUESTION, "cannot tell", text)
    judged = held(
        bench,
        subject,
        CHECK,
        lambda s: statistics.mean(_drop(bench, s, costly), bounds=GAIN, level=LEVEL),
    )
    changes = {each.name: _map_change(bench, subject, each) for each in tried}
    unmoved = [each for each in costly if changes[each.name] < UNMOVED]
    cost = sum(loss(bench, each).value for each in costly) / len(costly)
    numbers: dict[str, Any] = {
        "interventions": [
            {
                "model": each.name,
                "costs accuracy": each in costly,
                "accuracy lost": loss(bench, each).plain,
                "quality lost": statistics.mean(_drop(bench, subject, (each,)), bounds=GAIN).plain,
                "quality lost by a map that follows": statistics.mean(
                    _drop(bench, bench.follower, (each,)), bounds=GAIN
                ).plain,
                "map changed": changes[each.name],
            }
            for each in tried
        ],
        "left out": dict(_interventions(bench).left_out),
        "map changed": "1 - cosine of the maps before and after, mean over pictures",
        "quality lost": judged.numbers,
        "unmoved below": UNMOVED,
    }
    seen = (
        f"{len(costly)} interventions cost {cost:.3f} of accuracy on average, and the map's choice "
        f"above chance loses {judged.statistic} (limit {judged.limit:.3f} by the controls, a map "
        f"that follows {judged.follower.value:.3f})"
    )
    if unmoved:
        worst = max(unmoved, key=lambda each: loss(bench, each).value)
        text = (
            f"The model moved and the map did not: '{worst.name}' costs {loss(bench, worst)} of "
            f"accuracy, the map changes by {changes[worst.name]:.1g}; {seen}."
        )
        return Finding(CHECK, 2, QUESTION, "violated", text, numbers)
    match judged.outcome:
        case "passes":
            return Finding(CHECK, 2, QUESTION, "holds", f"The map moves too: {seen}.", numbers)
        case "fails":
            text = f"The model moved, the map less than half as far as one that follows: {seen}."
            return Finding(CHECK, 2, QUESTION, "violated", text, numbers)
        case _:
            return Finding(CHECK, 2, QUESTION, "cannot tell", f"{seen}: {judged.why}.", numbers)


def measured(bench: AuditTask) -> tuple[Variant, ...]:
    """The interventions that this model's layers allow."""
    return _interventions(bench).variants


def _interventions(bench: AuditTask) -> Usable:
    every = interventions(bench.model, bench.attention_layers, seed=bench.seed)
    return bench.kept(("interventions",), lambda: usable(every, bench.scores))


def loss(bench: AuditTask, variant: Variant) -> Interval:
    """Accuracy (share of absent prompts beaten) lost, paired over pictures."""
    return statistics.paired(bench.beaten(), bench.beaten(variant), bounds=SHARE)


def costing(bench: AuditTask) -> tuple[Variant, ...]:
    """The interventions whose loss of accuracy has an interval above zero."""
    return tuple(each for each in measured(bench) if loss(bench, each).low > 0)


def _drop(bench: AuditTask, subject: Mapped, variants: tuple[Variant, ...]) -> Tensor:
    """Each picture's loss of quality, mean over variants, by the same draws of chance."""
    before = bench.gain(subject)
    return torch.stack([before - bench.gain(subject, each) for each in variants]).mean(0)


def _map_change(bench: AuditTask, subject: Mapped, variant: Variant) -> float:
    before, after = (bench.maps(subject, each).flatten(1).double() for each in (UNTOUCHED, variant))
    return max(0.0, float(change(before.unsqueeze(1), after).nanmean()))
