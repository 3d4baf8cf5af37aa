"""Check that a map loses quality where an intervention makes the model worse."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
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
from heatproof.auditing.drawing import bare, reference
from heatproof.auditing.task import QUALITY, AuditTask, MapSource
from heatproof.auditing.verdicts import LEVEL, ORACLE, compare_with_controls
from heatproof.engine.following import change
from heatproof.evaluation.subject import Subject
from heatproof.evaluation.variants import UNTOUCHED, Usable, Variant, interventions, usable
from heatproof.plots import chart
from heatproof.statistics import SHARE, Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# 1 - cosine below which two maps differ by rounding alone (float32 maps, some thousand steps).
UNMOVED = 1e-6


@register_check
@dataclass(frozen=True)
class MovedModelCheck(AuditCheck):
    """Compare the mean loss of quality over interventions that cost accuracy with the controls.

    Besides, a map that stays as it was, to rounding, under an intervention that costs accuracy is a
    violation by itself: no statistics are needed to see it.
    """

    card = CheckCard(
        name="moved-model",
        title="moved model, unmoved map",
        principle=2,
        place=2,
        question=(
            "Where an intervention costs the model performance, does the map lose quality with it?"
        ),
        answers="tracking",
    )

    def measure(self, subject: Subject, context: CheckContext) -> Finding:
        """Measure maps under every intervention that the model's layers allow."""
        task = context.task
        tried, costly = possible_interventions(task), costly_interventions(task)
        if not costly:
            most = max((accuracy_lost(task, model).value for model in tried), default=0.0)
            return self.finding(
                "cannot tell",
                f"No intervention measurably costs this model accuracy (at most {most:.3f}).",
            )
        comparison = compare_with_controls(
            task,
            subject,
            self.card.title,
            lambda method: statistics.mean(
                _quality_lost(task, method, costly), bounds=QUALITY, level=LEVEL
            ),
        )
        changes = {model.name: _map_change(task, subject, model) for model in tried}
        numbers: dict[str, Any] = {
            "interventions": [
                {
                    "model": model.name,
                    "costs accuracy": model in costly,
                    "accuracy lost": accuracy_lost(task, model).plain,
                    "quality lost": _mean_quality_lost(task, subject, model).plain,
                    f"quality lost by {ORACLE}": _mean_quality_lost(task, task.oracle, model).plain,
                    "map changed": changes[model.name],
                }
                for model in tried
            ],
            "left out": dict(_usable_interventions(task).left_out),
            "map changed": "1 - cosine of the maps before and after, mean over pictures",
            "quality lost": comparison.numbers,
            "unmoved below": UNMOVED,
        }
        cost = sum(accuracy_lost(task, model).value for model in costly) / len(costly)
        seen = (
            f"{len(costly)} interventions cost {cost:.3f} of accuracy on average, and the map's "
            f"choice above chance falls by {comparison.statistic} ({comparison.limits})"
        )
        unmoved = [model for model in costly if changes[model.name] < UNMOVED]
        if unmoved:
            worst = max(unmoved, key=lambda model: accuracy_lost(task, model).value)
            text = (
                f"The model changed and the map did not: '{worst.name}' costs "
                f"{accuracy_lost(task, worst)} of accuracy, and the map changes by "
                f"{changes[worst.name]:.1g}; {seen}."
            )
            return self.finding("violated", text, numbers)
        verdict, evidence = comparison.verdict(
            seen,
            passes="The map gets worse too",
            fails="The model gets worse, the map less than half as much as the oracle control's",
        )
        return self.finding(verdict, evidence, numbers)

    def figure(self, numbers: Numbers) -> "Figure | None":
        """Draw the quality that maps lose against the accuracy lost, a point per intervention."""
        figure, (axes,) = chart.new_chart(8)
        for model in numbers["interventions"]:
            lost, quality = chart.point(model["accuracy lost"]), chart.point(model["quality lost"])
            oracle = chart.point(model[f"quality lost by {ORACLE}"])
            if lost is None:
                continue
            if oracle is not None:
                kind = ORACLE.replace(" ", "-")
                chart.dot(axes, bare(lost), bare(oracle), chart.ORACLE, "D", kind)
            if quality is not None and model["costs accuracy"]:
                chart.dot(axes, lost, quality)
            elif quality is not None:  # what costs the model nothing says nothing about the map
                chart.dot(axes, lost, quality, chart.RIVAL, "o", "free")
        if not numbers["interventions"]:
            return None
        reference(axes, "unmoved", y=0)
        axes.set_xlabel("model: accuracy lost")
        axes.set_ylabel("map: quality lost")
        kinds = [
            ("an intervention", chart.OURS, "o"),
            (ORACLE, chart.ORACLE, "D"),
            ("unmoved", chart.RIVAL, "--"),
        ]
        if any(not model["costs accuracy"] for model in numbers["interventions"]):
            kinds.append(("costs the model nothing", chart.RIVAL, "o"))
        chart.legend(axes, kinds)
        return figure


def possible_interventions(task: AuditTask) -> tuple[Variant, ...]:
    """Return the interventions that this model's layers allow."""
    return _usable_interventions(task).variants


def _usable_interventions(task: AuditTask) -> Usable:
    every = interventions(task.model, task.attention_layers, seed=task.seed)
    return task.cached(("interventions",), lambda: usable(every, task.scores))


def accuracy_lost(task: AuditTask, model: Variant) -> Interval:
    """Return the loss of accuracy (share of absent prompts outscored), paired over images."""
    return statistics.paired(task.outscored(), task.outscored(model), bounds=SHARE)


def costly_interventions(task: AuditTask) -> tuple[Variant, ...]:
    """Return the interventions whose loss of accuracy has an interval above zero."""
    return tuple(
        model for model in possible_interventions(task) if accuracy_lost(task, model).low > 0
    )


def _quality_lost(task: AuditTask, subject: MapSource, models: Sequence[Variant]) -> Tensor:
    """Return each image's loss, mean over models; draws of chance are the same in all of them."""
    before = task.quality(subject)
    return torch.stack([before - task.quality(subject, model) for model in models]).mean(0)


def _mean_quality_lost(task: AuditTask, subject: MapSource, model: Variant) -> Interval:
    return statistics.mean(_quality_lost(task, subject, (model,)), bounds=QUALITY)


def _map_change(task: AuditTask, subject: MapSource, model: Variant) -> float:
    before, after = (
        task.maps(subject, variant).flatten(1).double() for variant in (UNTOUCHED, model)
    )
    return max(0.0, float(change(before.unsqueeze(1), after).nanmean()))
