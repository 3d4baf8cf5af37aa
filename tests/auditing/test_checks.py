"""What all checks share: identifiers, order, deciding questions; and what adding one takes."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from audits import on
from heatproof.auditing import base, checks
from heatproof.auditing.base import DECIDING, AuditCheck
from heatproof.auditing.base import checks as every_check
from heatproof.auditing.drawing import draw
from heatproof.auditing.result import Audit, from_json
from heatproof.auditing.run import run_checks
from heatproof.errors import InputError
from heatproof.evaluation.subject import Subject

PLANTED = """
from dataclasses import dataclass
from heatproof.auditing.base import AuditCheck, CheckCard, register_check
from heatproof.plots import chart

@register_check
@dataclass(frozen=True)
class PlantedCheck(AuditCheck):
    card = CheckCard(
        name="planted",
        title="a planted check",
        principle=1,
        place=9,
        question="Is the map as large as planted?",
        answers="own pass",
    )

    def measure(self, subject, context):
        size = context.maps(subject).shape[-1]
        return self.finding("holds", f"It has {size} columns.", {"size": size})

    def figure(self, numbers):
        figure, (axes,) = chart.new_chart(1)
        chart.bar(axes, 0, chart.point(numbers["size"]))
        return figure
"""


def test_a_new_check_is_one_file(tmp_path: Path, monkeypatch: Any) -> None:
    """Break: a list of checks anywhere: the planted file is not run, drawn, or believed."""
    (tmp_path / "planted.py").write_text(PLANTED)
    monkeypatch.setattr(checks, "__path__", [*checks.__path__, str(tmp_path)])
    monkeypatch.setattr(base._CHECKS, "classes", {})
    try:
        checks.import_all()
    finally:
        sys.modules.pop("heatproof.auditing.checks.planted", None)
    model = tiny.open_clip_vit()
    size = model.image.preprocess
    pixels, texts = torch.zeros(1, 3, size.height, size.width), torch.eye(tiny.EMBED)[:1]
    context = on(model, pixels.double(), texts.double())
    (finding,) = run_checks(Subject.of("center"), context)
    assert (finding.id, finding.evidence) == ("planted", "It has 5 columns.")
    assert draw(finding).count('data-kind="bar"') == 1
    audit = Audit(method="center", settings={}, model="tiny", findings=(finding,))
    assert audit.verdict(1) == "holds"  # no other check is there to answer other questions


@pytest.mark.parametrize("check", every_check())
def test_a_check_is_called_as_its_file(check: type[AuditCheck]) -> None:
    assert check.__module__.rsplit(".", 1)[1].replace("_", "-") == check.card.name
    assert check.card.question.endswith("?")
    assert check().finding("holds", "It is so.").check == check.card.title


def test_checks_are_in_one_order_and_decide_their_own_principle() -> None:
    places = [(check.card.principle, check.card.place) for check in every_check()]
    assert places == sorted(set(places))
    assert every_check(1) + every_check(2) == every_check()
    principles = {question.id: question.principle for question in DECIDING}
    answered = [
        (check.card.answers, check.card.principle) for check in every_check() if check.card.answers
    ]
    assert {question for question, _ in answered} == set(principles)
    assert all(principles[question] == principle for question, principle in answered)


def test_files_of_earlier_versions_name_checks_by_their_title() -> None:
    """Break: no look-up of titles: nothing is established in an older audit.json."""
    findings = [
        {
            "check": check.card.title,
            "principle": 1,
            "verdict": "holds",
            "evidence": "",
            "numbers": {},
        }
        for check in every_check(1)
    ]
    audit = from_json({"method": "m", "model": "scenes", "findings": findings})
    assert [finding.id for finding in audit.findings] == [
        check.card.name for check in every_check(1)
    ]
    assert audit.verdict(1) == "holds"


def test_a_context_without_labelled_images_says_so() -> None:
    (check, *_) = every_check(2)
    context = on(tiny.open_clip_vit(), [], [])
    with pytest.raises(InputError, match="needs labelled images"):
        check().measure(Subject.of("center"), context)
