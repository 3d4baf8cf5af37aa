"""Check that a map changes when the prompt is another one, an absent one, or says nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from heatproof import statistics
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
from heatproof.auditing.verdicts import LEVEL, ORACLE, Comparison, compare_with_controls
from heatproof.engine.following import change
from heatproof.evaluation import localisation
from heatproof.evaluation.subject import Subject
from heatproof.plots import chart
from heatproof.statistics import SHARE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DISTANCE = (0.0, 2.0)
"""The bounds of 1 - cosine."""


@register_check
@dataclass(frozen=True)
class NullPromptsCheck(AuditCheck):
    """Compare 1 - cosine of the named prompt's map and the null prompt's with the noise floor.

    The floor is the same figure for the same prompt asked twice with other seeds: a method that
    uses chance changes its maps without any change of prompt. 0 is a map that ignores the prompt.
    """

    card = CheckCard(
        name="null-prompts",
        title="null prompts",
        principle=2,
        place=4,
        question="Does the map change under empty, gibberish, unrelated, absent or other prompts?",
        answers="prompt",
    )

    def measure(self, subject: Subject, context: CheckContext) -> Finding:
        """Measure the change under every kind of prompt that can be asked."""
        task = context.task
        kinds = task.kinds(subject)
        if not kinds:
            text = "There is no other prompt to ask: one label, and no text tower."
            return self.finding("not applicable", text)
        comparisons = {kind: self._compare(task, subject, kind) for kind in kinds}
        floor = statistics.mean(_floor(task, subject), bounds=DISTANCE)
        changes = {
            kind: statistics.mean(_change(task, subject, kind), bounds=DISTANCE) for kind in kinds
        }
        every: tuple[PromptKind, ...] = ("named", *kinds)
        on_objects = {
            kind: statistics.mean(_heat_on_objects(task, subject, kind), bounds=SHARE)
            for kind in every
        }
        covered = float(task.objects.sum(1).clamp(max=1).mean())
        numbers: dict[str, Any] = {
            "change": {kind: interval.plain for kind, interval in changes.items()},
            "scale": "1 - cosine of the signed maps: 0 the same, 1 unrelated, 2 opposite",
            "noise floor": floor.plain,
            "change over the floor": {kind: one.numbers for kind, one in comparisons.items()},
            "heat on any object": {kind: share.plain for kind, share in on_objects.items()},
            "share of the picture that objects cover": round(covered, 4),
        }
        listed = ", ".join(f"{kind} {interval.value:.3f}" for kind, interval in changes.items())
        limit = max(one.limit for one in comparisons.values())
        seen = (
            f"1 - cosine to the named prompt's map: {listed}; the same prompt asked twice "
            f"{floor.value:.2g}; limit above that {limit:.3f} from the controls"
        )
        return self.finding(*_verdict(comparisons, seen), numbers)

    def _compare(self, task: AuditTask, subject: Subject, kind: PromptKind) -> Comparison:
        return compare_with_controls(
            task,
            subject,
            f"{self.card.title}: {kind}",
            lambda method: statistics.paired(
                _change(task, method, kind), _floor(task, method), bounds=DISTANCE, level=LEVEL
            ),
        )

    def figure(self, numbers: Numbers) -> "Figure | None":
        """Draw how far the map moves under each kind of prompt, with limit and oracle control."""
        changes: dict[str, Any] = numbers["change"]
        if not changes:
            return None
        floor = chart.finite(numbers["noise floor"]["value"]) or 0.0
        figure, (axes,) = chart.new_chart(len(changes))
        chart.label_rows(axes, list(changes))
        for row, (kind, value) in enumerate(changes.items()):
            changed, compared = chart.point(value), numbers["change over the floor"].get(kind, {})
            if changed is not None:
                chart.bar(axes, row, changed)
            limit, oracle = chart.finite(compared.get("limit")), chart.point(compared.get(ORACLE))
            if limit is not None:
                chart.tick(axes, floor + limit, row)
            if oracle is not None:
                chart.tick(axes, oracle.value, row, chart.ORACLE, ORACLE.replace(" ", "-"))
        axes.set_xlim(-0.02, 2)
        axes.set_xticks([0, 1, 2], ["0 the same map", "1 unrelated", "2 opposite"])
        axes.set_xlabel("1 - cosine to the named prompt's map")
        kinds = [
            ("this method", chart.OURS, "bar"),
            ("limit", chart.LIMIT, "-"),
            (ORACLE, chart.ORACLE, "-"),
        ]
        chart.legend(axes, kinds)
        return figure


def _verdict(comparisons: Mapping[str, Comparison], seen: str) -> tuple[Verdict, str]:
    """Violated where the map ignores one kind of prompt: that kind is named."""
    unsure = [k for k, one in comparisons.items() if one.outcome not in ("passes", "fails")]
    ignored = [k for k, one in comparisons.items() if one.outcome == "fails"]
    if any(one.outcome in ("broken", "blunt") for one in comparisons.values()):
        why = comparisons[unsure[0]].why
        return "cannot tell", f"{why[0].upper()}{why[1:]}; {seen}."
    if ignored:
        return "violated", f"The map hardly depends on the prompt ({', '.join(ignored)}): {seen}."
    if unsure:
        return "cannot tell", f"Prompt kind '{unsure[0]}': {comparisons[unsure[0]].why}; {seen}."
    return "holds", f"The map depends on the prompt: {seen}."


def _change(task: AuditTask, subject: MapSource, kind: PromptKind) -> Tensor:
    return _distance(task.maps(subject), task.maps(subject, kind=kind))


def _floor(task: AuditTask, subject: MapSource) -> Tensor:
    # The same prompt with another seed: what chance alone changes.
    return _distance(task.maps(subject), task.maps(subject, draw=1))


def _distance(maps: Tensor, others: Tensor) -> Tensor:
    distances = change(maps.flatten(1).double().unsqueeze(1), others.flatten(1).double())[:, 0]
    return distances.clamp(min=0)  # rounding can make a cosine a little more than 1


def _heat_on_objects(task: AuditTask, subject: MapSource, kind: PromptKind) -> Tensor:
    """Return the share of positive heat on any object: does the map still look like the image?"""
    cover = task.objects.sum(1).clamp(max=1).unsqueeze(1)
    return localisation.energy(task.maps(subject, kind=kind).unsqueeze(1), cover)[:, 0].double()
