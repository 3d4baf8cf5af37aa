"""Check that a map adds up to the score's change from an explicit baseline.

The measure is that of arXiv 2605.22417: attribution result against attribution target. Its
normalisation is ours.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof import statistics
from heatproof.auditing.ablation import fills
from heatproof.auditing.base import (
    AuditCheck,
    CheckCard,
    CheckContext,
    Finding,
    Numbers,
    register_check,
)
from heatproof.auditing.task import AuditTask
from heatproof.evaluation.subject import Subject
from heatproof.methods import Method, ReadPass
from heatproof.methods.proxy import MethodProxy
from heatproof.plots import chart
from heatproof.reading.interventions import knock_out, masked_keys
from heatproof.tolerances import TOLERANCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register_check
@dataclass(frozen=True)
class AttributionErrorCheck(AuditCheck):
    """Measure mean |sum - change| over images, in units of the mean |change|.

    For methods that promise a sum (`Method.total`). The baseline is the one, of those in `numbers`,
    whose change comes nearest to the promise. Two controls: a map of zeros, whose error is 1, and
    the sum of another image's map. An error below both holds, above either is violated.

    images: how many images at most.
    """

    images: int = 64

    card = CheckCard(
        name="attribution-error",
        title="attribution error",
        principle=2,
        place=6,
        question="Does the map add up to the score's change from the baseline?",
    )

    def measure(self, subject: Subject, context: CheckContext) -> Finding:
        """Compare sums with changes on images that show a named object."""
        task = context.task
        rows = (task.named >= 0).nonzero()[:, 0][: self.images]
        measured = _sums(subject, task, rows)
        if measured is None:
            return self.finding("not applicable", "The method promises no sum.")
        sums, total, changes = measured
        baseline = min(changes, key=lambda name: float((total - changes[name]).abs().mean()))
        change = changes[baseline]
        unit = float(change.abs().mean())
        missed = (sums - change).abs()
        # Another image's sum is a control as large as the method's own.
        missed_by_other = (sums.roll(1) - change).abs()
        error = statistics.mean(missed / unit)
        other = statistics.mean(missed_by_other / unit)
        gains = {
            "than a map of zeros": (change.abs() - missed) / unit,
            "than another picture's": (missed_by_other - missed) / unit,
        }
        closer = {name: statistics.mean(values) for name, values in gains.items()}
        promise_missed = float((sums - total).abs().max())
        rounding = TOLERANCE[task.model.precision] * max(1.0, float(total.abs().max()))
        numbers: dict[str, Any] = {
            "baseline": baseline,
            "error": error.plain,
            "error of another picture's sum": other.plain,
            "error of a map of zeros": 1.0,
            "closer": {name: interval.plain for name, interval in closer.items()},
            "promise missed by": promise_missed,
            "float noise": rounding,
            "mean score change by baseline": {
                name: round(float(values.mean()), 6) for name, values in changes.items()
            },
            "mean sum": round(float(sums.mean()), 6),
        }
        seen = (
            f"the sum misses the score's change from the baseline '{baseline}' by {error} of that "
            f"change (another image's sum by {other.value:.3f}, a map of zeros by 1); it misses "
            f"the method's own promise by at most {promise_missed:.1g}"
        )
        if all(gain.low > 0 for gain in closer.values()) or float(missed.max()) <= rounding:
            return self.finding("holds", f"The sum gives the change: {seen}.", numbers)
        # Gains that are all 0 have no spread to measure, and none is needed to see that none is a
        # gain.
        no_gain = len(rows) >= statistics.FEWEST and any(
            bool((values <= 0).all()) for values in gains.values()
        )
        if no_gain or any(gain.high <= 0 for gain in closer.values()):
            return self.finding("violated", f"The sum does not give the change: {seen}.", numbers)
        return self.finding("cannot tell", f"Too few images: {seen}.", numbers)

    def figure(self, numbers: Numbers) -> "Figure | None":
        """Draw how far the sum misses, beside the controls."""
        rows = {
            "this method's sum": chart.point(numbers["error"]),
            "another image's sum": chart.point(numbers["error of another picture's sum"]),
            "a map of zeros": chart.point(numbers["error of a map of zeros"]),
        }
        if rows["this method's sum"] is None:
            return None
        figure, (axes,) = chart.new_chart(len(rows))
        chart.label_rows(axes, list(rows))
        for row, error in enumerate(rows.values()):
            if error is not None:
                chart.bar(axes, row, error, chart.RIVAL if row else chart.OURS)
        axes.set_xlabel("error (1 = the score's mean change from the baseline)")
        return figure


class _SumRecorder(MethodProxy):
    """Keep a method's sums, its promised totals and the changes from each baseline."""

    def __init__(self, method: Method, task: AuditTask) -> None:
        super().__init__(method)
        self.task = task
        self.sums: list[Tensor] = []
        self.totals: list[Tensor] = []
        self.changes: dict[str, list[Tensor]] = {}

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        values = super().attribute(read)
        total = super().total(read)
        if total is not None:
            self.sums.append(_first_target(values.sum(-1)))
            self.totals.append(_first_target(total))
            with torch.no_grad():
                for name, scores in _baselines(self.task, read).items():
                    change = _first_target(read.scores - scores)
                    self.changes.setdefault(name, []).append(change)
        return values


def _first_target(values: Tensor) -> Tensor:
    return values.detach().double().cpu()[:, 0]


def _baselines(task: AuditTask, read: ReadPass) -> dict[str, Tensor]:
    """Score the baselines: nothing from the last layer, no patches, flat images."""
    assert read.batch.pixels is not None
    layers, last = task.attention_layers, task.attention_layers[-1]
    patches = torch.ones(1, last.keys, dtype=torch.bool)
    patches[:, read.batch.content] = False
    silent = {last.path: knock_out(range(last.heads))}
    scores = {"the last attention call hands nothing on": read.rerun(interventions=silent)}
    if not patches.all() and patches.any() and all(one.keys == last.keys for one in layers):
        hidden = {layer.path: masked_keys(patches) for layer in layers}
        scores["no patch tokens"] = read.rerun(interventions=hidden)
    for name, fill in fills(task).items():
        scores[f"{name} picture"] = read.rerun(fill(read.batch.pixels))
    # Where preprocessing ends in mean and deviation, zeros are the training data's mean colour.
    scores["zeros"] = read.rerun(torch.zeros_like(read.batch.pixels))
    return scores


def _sums(
    subject: Subject, task: AuditTask, rows: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]] | None:
    """Return per image the map's sum, the promised total, and the change from each baseline.

    None where the method promises nothing.
    """
    if subject.method.foreign:
        return None
    recorder = _SumRecorder(subject.method, task)
    order: list[Tensor] = []
    for label in task.named[rows].unique().tolist():
        asked = rows[task.named[rows] == label]
        prompt = [task.data.prompts[label]]
        Subject(recorder).maps(task.model, task.pixels[asked], prompt, seed=task.seed)
        if not recorder.sums:
            return None
        order.append(asked)
    place = torch.cat(order).argsort()
    return (
        torch.cat(recorder.sums)[place],
        torch.cat(recorder.totals)[place],
        {name: torch.cat(parts)[place] for name, parts in recorder.changes.items()},
    )
