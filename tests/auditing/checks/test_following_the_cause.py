"""Following the cause, on planted causes and maps; and what the audit does without labels."""

from typing import Any

import pytest
import torch
from torch import Tensor

import heatproof
import tiny
from audits import on_task
from heatproof.auditing.checks import right_and_wrong
from heatproof.auditing.checks.following_the_cause import FollowingTheCauseCheck, usable_ladder
from heatproof.auditing.checks.right_and_wrong import RightAndWrongCheck
from heatproof.auditing.task import AuditTask
from heatproof.data.scenes.single_attribute import asked
from heatproof.evaluation.ladders import LADDERS
from heatproof.evaluation.subject import Subject
from heatproof.models import Model

IMAGES = 120


@pytest.fixture(scope="module")
def scenes() -> Model:
    return heatproof.load("scenes")


@pytest.fixture(scope="module")
def task(scenes: Model) -> AuditTask:
    return AuditTask(scenes, asked(IMAGES, seed=5))


def maps_that_win(task: AuditTask, share: float, seed: int) -> Tensor:
    """Maps on the named object in this share of the images, on the other objects elsewhere."""
    luck = torch.rand(IMAGES, generator=torch.Generator().manual_seed(seed))
    named = task.cover(task.named)
    others = (task.objects.sum(1) - named).clamp(0, 1)
    return torch.where((luck < share)[:, None, None], named - others, others - named)


def plant(task: AuditTask, shares: tuple[float, ...], name: str, keep: bool) -> Any:
    """Plant causes that fall and a subject's maps that fall with them or stay (`keep`)."""
    subject = Subject.of(name)
    luck = torch.rand(IMAGES, generator=torch.Generator().manual_seed(1))
    for rung, share in zip(usable_ladder(task, "one head").rungs, shares, strict=True):
        task._cache["cause", rung.name] = (luck < share).double()
        wins = 0.8 if keep else share
        task._cache["maps", subject, rung.name, "named", 0] = maps_that_win(task, wins, 2)
    return FollowingTheCauseCheck(ladders="one head").measure(subject, on_task(task))


def test_a_map_that_falls_with_the_cause_holds_and_one_that_stays_does_not(
    task: AuditTask,
) -> None:
    """Break: give F the cause's and the map's sides the other way round."""
    shares = (0.97, 0.9, 0.8, 0.65, 0.5)
    assert plant(task, shares, "gae", keep=False).verdict == "holds"
    fixed = plant(task, shares, "grad-cam", keep=True)
    assert fixed.verdict == "violated"
    assert "loses less than half" in fixed.evidence
    none = plant(task, (0.97, 0.96, 0.96, 0.95, 0.95), "rollout", keep=True)
    assert none.verdict == "cannot tell"
    assert "too much for a test" in none.evidence


def test_every_ladder_ends_worse_and_leaves_the_model_as_it_was(scenes: Model) -> None:
    """The cause is the model's own: all of it goes where nothing is seen."""
    task = AuditTask(scenes, asked(16, seed=6))
    before = task.cause().nanmean()
    assert before > 0.8
    for name in LADDERS:
        rungs = usable_ladder(task, name).rungs
        assert len(rungs) > 3
        # Rounding to 3 bits may cost this model nothing.
        assert task.cause(rungs[-1]).nanmean() <= before
    blind = usable_ladder(task, "blindness").rungs[-1]
    assert set(task.cause(blind).tolist()) == {0.5}
    again = AuditTask(scenes, asked(16, seed=6))
    assert torch.equal(again.cause(), task.cause())


def test_a_model_without_labels_is_still_made_blind() -> None:
    """Principle 2 is not measured there, and yet violated by a map of what nobody saw."""
    model = tiny.open_clip_vit(torch.float32)
    published = heatproof.audit("grad-eclip", model, principles=[2])
    assert [found.id for found in published.findings] == ["blind-model"]
    assert published.verdict(2) == "violated"
    own = heatproof.audit("attention-x-gradient", model, principles=[2])
    assert own.verdict(2) == "not measured"
    assert "no images with masks" in own.reason(2)


def test_right_and_wrong_draws_until_its_interval_is_narrow(
    scenes: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break: stop at the first verdict, or draw the same images again."""
    monkeypatch.setattr(right_and_wrong, "MOST", 3)
    drawn: list[int] = []

    def draw(number: int) -> Any:
        drawn.append(number)
        return asked(12, seed=1000 * number)

    task = AuditTask(scenes, asked(12, seed=7), draw=draw)
    found = RightAndWrongCheck().measure(Subject.of("center"), on_task(task))
    assert drawn == list(range(1, 3))
    assert found.numbers["images"] == 12 * 3
    others = [task.further(number) for number in (1, 2)]
    assert not torch.equal(others[0].pixels, others[1].pixels)
    alone = AuditTask(scenes, asked(12, seed=7))
    assert (
        RightAndWrongCheck().measure(Subject.of("center"), on_task(alone)).numbers["images"] == 12
    )
