"""Check that a map loses what the model loses, on ladders of ever worse models."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import torch

from heatproof.auditing.base import (
    AuditCheck,
    CheckCard,
    CheckContext,
    Finding,
    Numbers,
    Verdict,
    register_check,
)
from heatproof.auditing.drawing import reference
from heatproof.auditing.task import AuditTask
from heatproof.auditing.verdicts import LEVEL
from heatproof.evaluation.ladders import Ladder, ladder
from heatproof.evaluation.subject import Subject
from heatproof.evaluation.tracking import LadderTracking, Step, not_asked, track
from heatproof.evaluation.variants import usable
from heatproof.plots import chart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS: tuple[Step, ...] = get_args(Step)


@register_check
@dataclass(frozen=True)
class FollowingTheCauseCheck(AuditCheck):
    """Compare how the map's d' falls with how the cause's does: F (`evaluation.tracking`).

    The cause is the effect of each object on the score: the scene is drawn again without it, or it
    is inpainted. Rules, written down before the run: violated where the map is unmoved on one
    ladder (F's 99 % interval lies below 1/2); holds where it follows on every ladder on which the
    question can be asked (above 1/2), and on one at least; else it cannot tell. A map that loses
    more than the model (F above 1) is not violated: its F says so.

    ladders: some of `evaluation.ladders.LADDERS`, joined by commas.
    """

    ladders: str = "one head, blindness, noise"

    card = CheckCard(
        name="following-the-cause",
        title="following the cause",
        principle=2,
        place=8,
        question="Does the map lose what the model loses as the model gets worse?",
        answers="tracking",
    )

    def measure(self, subject: Subject, context: CheckContext) -> Finding:
        """Measure cause and map on every rung of the ladders that this model allows."""
        task = context.task
        tracks: dict[str, LadderTracking] = {}
        numbers: dict[str, Any] = {}
        for name in self.ladders.split(","):
            rungs = usable_ladder(task, name.strip())
            if len(rungs.rungs) < 2:
                numbers[rungs.name] = {"rungs": [], "why not": rungs.why_not}
                continue
            tracks[rungs.name] = track_ladder(task, subject, rungs)
            numbers[rungs.name] = {
                "rungs": [rung.name for rung in rungs.rungs],
                **tracks[rungs.name].plain,
            }
        verdict, evidence = _verdict(tracks, numbers)
        return self.finding(verdict, evidence, {"ladders": numbers})

    def figure(self, numbers: Numbers) -> "Figure | None":
        """Draw F by ladder, with and without the first rung."""
        rows = {n: one for n, one in numbers["ladders"].items() if one.get("following")}
        rows = {n: one for n, one in rows.items() if one["following"]["value"] is not None}
        if not rows:
            return None
        figure, (axes,) = chart.new_chart(len(rows) * 1.5)
        chart.label_rows(axes, list(rows))
        for row, one in enumerate(rows.values()):
            point = chart.point(one["following"])
            rest = chart.point(one["without the first rung"])
            if rest is not None:
                chart.dot(axes, rest, row + 0.2, chart.RIVAL, "o", "rest")
            if point is not None:
                chart.dot(axes, point, row, name="following")
        reference(axes, "in-step", x=1)
        reference(axes, "unmoved", x=0)
        axes.set_xlabel("F: 0 unmoved, 1 in step with the model")
        kinds = [("F", chart.OURS, "o"), ("without the first rung", chart.RIVAL, "o")]
        chart.legend(axes, kinds)
        return figure


def usable_ladder(task: AuditTask, name: str) -> Ladder:
    """Return a ladder's rungs that this model's layers allow."""

    def find() -> Ladder:
        whole = ladder(name, task.model, task.attention_layers, seed=task.seed)
        allowed = usable(whole.rungs, task.scores)
        why = whole.why_not or next(iter(allowed.left_out.values()), "")
        return Ladder(name, allowed.variants, why)

    return task.cached(("ladder", name), find)


def track_ladder(
    task: AuditTask, subject: Subject, rungs: Ladder, *, level: float = LEVEL
) -> LadderTracking:
    """Return a method's course down a ladder."""
    cause = torch.stack([task.cause(rung) for rung in rungs.rungs])
    if (unasked := not_asked(cause, task.beaten(subject, rungs.rungs[0]))) is not None:
        return unasked
    quality = torch.stack([task.beaten(subject, rung) for rung in rungs.rungs])
    return track(cause, quality, level=level, seed=task.seed)


def _verdict(tracks: dict[str, LadderTracking], numbers: dict[str, Any]) -> tuple[Verdict, str]:
    by_step = {step: [n for n, one in tracks.items() if one.step == step] for step in STEPS}
    asked = [name for name, one in tracks.items() if one.step != "not asked"]
    seen = "; ".join(f"{name}: {_seen(numbers[name])}" for name in numbers)
    if by_step["unmoved"]:
        return (
            "violated",
            f"The map loses less than half of what the model loses "
            f"({', '.join(by_step['unmoved'])}): {seen}.",
        )
    if asked and by_step["follows"] == asked:
        return "holds", f"The map loses what the model loses ({', '.join(asked)}): {seen}."
    return "cannot tell", f"{seen[0].upper()}{seen[1:]}."


def _seen(numbers: Numbers) -> str:
    if numbers["why not"]:
        return f"not asked, {numbers['why not']}"
    following, rest = (chart.point(numbers[key]) for key in ("following", "without the first rung"))
    if following is None:
        return "F has no value"
    text = f"F = {following.value:.2f} [{following.low:.2f}, {following.high:.2f}]"
    if rest is not None:
        text += f", without the first rung {rest.value:.2f} [{rest.low:.2f}, {rest.high:.2f}]"
    kept, left = numbers["cause kept"], numbers["quality kept"]
    worst = min(range(len(kept)), key=lambda n: kept[n])
    return f"{text}; at '{numbers['rungs'][worst]}' the map keeps {left[worst]:.0%} of its d', " + (
        f"the cause {kept[worst]:.0%}"
    )
