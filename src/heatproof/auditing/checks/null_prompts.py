"""Null prompts: does the map change when the prompt is another, absent, or no prompt?"""

from typing import Any

from torch import Tensor

from heatproof import statistics
from heatproof.auditing.base import Finding
from heatproof.auditing.task import AuditTask, Kind, Mapped
from heatproof.auditing.verdicts import LEVEL, Judged, held
from heatproof.engine.following import change
from heatproof.evaluation import localisation
from heatproof.evaluation.subject import Subject
from heatproof.statistics import SHARE, Interval

CHECK = "null prompts"
DISTANCE = (0.0, 2.0)
QUESTION = "Does the map change under an empty, gibberish, absent, unrelated or another prompt?"


def null_prompts(subject: Subject, bench: AuditTask) -> Finding:
    """1 - cosine of the named prompt's map to the null prompt's, over the method's noise floor.

    The floor is the same figure for the same prompt asked twice, with other seeds: a method that
    uses chance changes its maps without any change of prompt. 0 is a prompt-blind map.
    """
    kinds = bench.kinds(subject)
    judged = {kind: _judged(bench, subject, kind) for kind in kinds}
    if not judged:
        text = "There is no other prompt to ask: one label, and no text tower."
        return Finding(CHECK, 2, QUESTION, "not applicable", text)
    floor = statistics.mean(_floor(bench, subject), bounds=DISTANCE)
    changes = {k: statistics.mean(_change(bench, subject, k), bounds=DISTANCE) for k in kinds}
    every: tuple[Kind, ...] = ("named", *kinds)
    on = {k: statistics.mean(_on_objects(bench, subject, k), bounds=SHARE) for k in every}
    numbers: dict[str, Any] = {
        "change": {kind: each.plain for kind, each in changes.items()},
        "scale": "1 - cosine of the signed maps: 0 the same, 1 unrelated, 2 opposite",
        "noise floor": floor.plain,
        "change over the floor": {kind: each.numbers for kind, each in judged.items()},
        "heat on any object": {kind: each.plain for kind, each in on.items()},
        "share of the picture that objects cover": round(
            float(bench.objects.sum(1).clamp(max=1).mean()), 4
        ),
    }
    seen = ", ".join(f"{kind} {each.value:.3f}" for kind, each in changes.items())
    limit = max(each.limit for each in judged.values())
    seen = (
        f"1 - cosine to the named prompt's map: {seen}; the same prompt asked twice "
        f"{floor.value:.2g}, limit over that {limit:.3f} by the controls"
    )
    outcomes = {kind: each.outcome for kind, each in judged.items()}
    unsure = [kind for kind, each in outcomes.items() if each not in ("passes", "fails")]
    blind = [kind for kind, each in outcomes.items() if each == "fails"]
    if any(each in ("broken", "blunt") for each in outcomes.values()):
        return Finding(
            CHECK, 2, QUESTION, "cannot tell", f"{judged[unsure[0]].why}; {seen}.", numbers
        )
    if blind:
        text = f"The map hardly depends on the prompt ({', '.join(blind)}): {seen}."
        return Finding(CHECK, 2, QUESTION, "violated", text, numbers)
    if unsure:
        text = f"{unsure[0]}: {judged[unsure[0]].why}; {seen}."
        return Finding(CHECK, 2, QUESTION, "cannot tell", text, numbers)
    return Finding(CHECK, 2, QUESTION, "holds", f"The map depends on the prompt: {seen}.", numbers)


def _judged(bench: AuditTask, subject: Subject, kind: Kind) -> Judged:
    return held(
        bench,
        subject,
        f"{CHECK}: {kind}",
        lambda s: _over(_change(bench, s, kind), _floor(bench, s)),
    )


def _over(changes: Tensor, floor: Tensor) -> Interval:
    return statistics.paired(changes, floor, bounds=DISTANCE, level=LEVEL)


def _change(bench: AuditTask, subject: Mapped, kind: Kind) -> Tensor:
    return _distance(bench.maps(subject), bench.maps(subject, kind=kind))


def _floor(bench: AuditTask, subject: Mapped) -> Tensor:
    return _distance(bench.maps(subject), bench.maps(subject, draw=1))


def _distance(one: Tensor, other: Tensor) -> Tensor:
    distances = change(one.flatten(1).double().unsqueeze(1), other.flatten(1).double())[:, 0]
    return distances.clamp(min=0)  # rounding makes a cosine a little more than 1


def _on_objects(bench: AuditTask, subject: Mapped, kind: Kind) -> Tensor:
    """The share of positive heat on any object: does the map still look like the picture?"""
    cover = bench.objects.sum(1).clamp(max=1).unsqueeze(1)
    return localisation.energy(bench.maps(subject, kind=kind).unsqueeze(1), cover)[:, 0].double()
