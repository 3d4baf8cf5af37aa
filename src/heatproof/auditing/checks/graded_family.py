"""Check that maps get better as the model does, and are no good where the model is at chance."""

from collections.abc import Mapping, Sequence
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
    Verdict,
    register_check,
)
from heatproof.auditing.drawing import bare, reference
from heatproof.auditing.task import QUALITY, AuditTask, MapSource
from heatproof.auditing.verdicts import LEVEL, ORACLE, Comparison, compare_with_controls
from heatproof.evaluation.subject import Subject
from heatproof.evaluation.variants import Usable, Variant, family, usable
from heatproof.plots import chart
from heatproof.statistics import SHARE, Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register_check
@dataclass(frozen=True)
class GradedFamilyCheck(AuditCheck):
    """Compare the quality of maps (choice above chance) with the accuracy of graded models.

    Three statistics: the rank correlation over models; the rise in quality from the least to the
    most accurate model, compared with the controls; and phantom localisation: the quality in a
    model at chance, beyond that of noise, a bump in the middle and the oracle control.
    """

    card = CheckCard(
        name="graded-family",
        title="graded family",
        principle=2,
        place=1,
        question="Over models from chance to trained, do maps become better as the model does?",
        answers="tracking",
    )

    def measure(self, subject: Subject, context: CheckContext) -> Finding:
        """Measure maps of every model of the family."""
        task = context.task
        models = ordered_family(task)
        worst, best = models[0], models[-1]
        ranks = rank_correlation(task, subject, models)
        rise = compare_with_controls(
            task,
            subject,
            f"{self.card.title}: rise",
            lambda method: statistics.paired(
                _quality(task, method, best),
                _quality(task, method, worst),
                bounds=SHARE,
                level=LEVEL,
            ),
        )
        beyond = {
            name: statistics.paired(
                _quality(task, subject, worst),
                _quality(task, rival, worst),
                bounds=SHARE,
                level=LEVEL,
            )
            for name, rival in _rivals(task).items()
            if rival != subject
        }
        at_chance = _accuracy(task, worst).low <= 0.5
        phantom = at_chance and all(interval.low > 0 for interval in beyond.values())
        numbers: dict[str, Any] = {
            "models": [_model_numbers(task, subject, model) for model in models],
            "left out": dict(_usable_family(task).left_out),
            "accuracy": "share of absent prompts that the named one outscores; chance is 0.5",
            "quality": "choice above chance",
            "rank correlation": ranks.plain,
            "rise": rise.numbers,
            "phantom over": {name: interval.plain for name, interval in beyond.items()},
            "phantom": phantom,
        }
        verdict, evidence = _verdict(task, models, ranks, rise, beyond if phantom else {})
        return self.finding(verdict, evidence, numbers)

    def figure(self, numbers: Numbers) -> "Figure | None":
        """Draw the quality of maps against accuracy, a point per model."""
        controls = {"random": "s", "center": "^", ORACLE: "D"}
        figure, (axes,) = chart.new_chart(9)
        for model in numbers["models"]:
            accuracy = chart.point(model["accuracy"])
            if accuracy is None:
                continue
            for name, value in model["controls"].items():
                quality = chart.point(value)
                if quality is not None:
                    colour = chart.ORACLE if name == ORACLE else chart.RIVAL
                    kind = name.replace(" ", "-")
                    marker = controls.get(name, "s")
                    chart.dot(axes, bare(accuracy), bare(quality), colour, marker, kind)
            quality = chart.point(model["quality"])
            if quality is not None:
                chart.dot(axes, accuracy, quality)
        if not numbers["models"]:
            return None
        reference(axes, "chance-of-maps", y=0)
        reference(axes, "chance-of-models", x=0.5)
        axes.set_xlabel("model: share of absent prompts that the named one outscores")
        axes.set_ylabel("map: choice above chance")
        kinds = [
            ("this method", chart.OURS, "o"),
            ("random", chart.RIVAL, "s"),
            ("center", chart.RIVAL, "^"),
            (ORACLE, chart.ORACLE, "D"),
        ]
        chart.legend(axes, kinds)
        return figure


def _model_numbers(task: AuditTask, subject: MapSource, model: Variant) -> dict[str, Any]:
    return {
        "model": model.name,
        "accuracy": _accuracy(task, model).plain,
        "quality": statistics.mean(_quality(task, subject, model), bounds=QUALITY).plain,
        "controls": {
            name: statistics.mean(_quality(task, rival, model), bounds=QUALITY).plain
            for name, rival in _rivals(task).items()
        },
    }


def _verdict(
    task: AuditTask,
    models: Sequence[Variant],
    ranks: Interval,
    rise: Comparison,
    phantom_beyond: Mapping[str, Interval],
) -> tuple[Verdict, str]:
    worst, best = _accuracy(task, models[0]), _accuracy(task, models[-1])
    span = f"from {worst.value:.2f} to {best.value:.2f} over {len(models)} models"
    seen = (
        f"while the model's accuracy rises {span}, the map's choice above chance rises by "
        f"{rise.statistic} ({rise.limits}); the rank correlation over models is {ranks}"
    )
    if not best.low > worst.high:
        return "cannot tell", f"No graded family here: accuracy goes only {span}."
    if rise.outcome in ("broken", "blunt"):
        return "cannot tell", f"{_capital(rise.why)}; {seen}."
    if phantom_beyond:
        least = min(phantom_beyond.values(), key=lambda interval: interval.low)
        return "violated", (
            f"Phantom localisation: where the model is at chance (accuracy {worst}), the map still "
            f"finds the object, by {least} better than the best of noise, a bump in the middle and "
            f"the oracle control; {seen}."
        )
    if rise.outcome == "passes" and ranks.low > 0:
        return "holds", f"The map tracks the model: {seen}."
    if rise.outcome == "fails":
        return "violated", f"The map rises less than half as much as the oracle control's: {seen}."
    why = rise.why if rise.outcome == "unclear" else "the order over models is uncertain"
    return "cannot tell", f"{_capital(seen)}: {why}."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def ordered_family(task: AuditTask) -> tuple[Variant, ...]:
    """Return the family's models, from the least accurate to the most accurate."""

    def make() -> tuple[Variant, ...]:
        def mean_accuracy(model: Variant) -> float:
            return float(task.outscored(model).nanmean())

        return tuple(sorted(_usable_family(task).variants, key=mean_accuracy))

    return task.cached(("family",), make)


def _usable_family(task: AuditTask) -> Usable:
    every = family(task.model, task.attention_layers, seed=task.seed)
    return task.cached(("usable family",), lambda: usable(every, task.scores))


def _accuracy(task: AuditTask, model: Variant) -> Interval:
    return statistics.mean(task.outscored(model), bounds=SHARE)


def _rivals(task: AuditTask) -> dict[str, MapSource]:
    return {
        "random": task.controls["random"],
        "center": task.controls["center"],
        task.oracle.name: task.oracle,
    }


def _quality(task: AuditTask, subject: MapSource, model: Variant) -> Tensor:
    models = ordered_family(task)
    # Methods that use chance draw anew for every model, so that no luck is shared between models;
    # the model as it is comes last and has draw 0, whose maps other checks use as well.
    return task.quality(subject, model, draw=len(models) - 1 - models.index(model))


def rank_correlation(task: AuditTask, subject: MapSource, models: Sequence[Variant]) -> Interval:
    """Return Spearman's correlation over models of mean accuracy and mean quality.

    Images are resampled, since both means change with the images that are drawn.
    """
    accuracies = torch.stack([task.outscored(model) for model in models], 1)
    qualities = torch.stack([_quality(task, subject, model) for model in models], 1)
    # An image counts where every model has both figures: all means are over the same images.
    both = ~(accuracies.isnan() | qualities.isnan()).any(1)
    a, q = accuracies[both], qualities[both]

    def statistic(rows: Tensor) -> Tensor:
        # A constant tracks nothing: 0, where the correlation has no value.
        return statistics.spearman(a[rows].mean(1), q[rows].mean(1)).nan_to_num(0)

    return statistics.bootstrap(statistic, len(a), seed=task.seed)
