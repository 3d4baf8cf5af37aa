"""(d) "Misaligned with the model's performance": a model that sees nothing, and ever worse ones.

Two experiments on scenes that can be drawn again without an object. The blind model: its readout is
kept from all patches, every image gets one embedding, and whatever a map still shows is no property
of the score. The ladders: F compares what a map loses with what the model itself loses. Rules and
definitions are those of the audit (`auditing.checks.blind_model`, `evaluation.tracking`), which
were fixed before any figure was looked at.
"""

from typing import Any

from heatproof import statistics
from heatproof.auditing.base import CheckContext
from heatproof.auditing.checks.blind_model import BlindModelCheck
from heatproof.auditing.checks.following_the_cause import track_ladder, usable_ladder
from heatproof.auditing.task import AuditTask
from heatproof.evaluation.ladders import LADDERS
from heatproof.evaluation.store import Part
from heatproof.evaluation.subject import Subject
from heatproof.methods import Method
from heatproof.recipes.grad_eclip_paper.catalogue import compared
from heatproof.recipes.grad_eclip_paper.context import Study
from heatproof.statistics import SHARE


def measure(study: Study) -> Part | None:
    """Ask every method about the blind model, and follow it down every ladder."""
    if study.material.counterfactual is None:
        return None
    data = study.material.counterfactual
    task = AuditTask(study.model, data, seed=study.seed)
    methods = compared()
    found: dict[str, Part] = {}
    for number, (name, method) in enumerate(methods.items()):
        study.watch("maps of blind and of worse models", number, len(methods))
        found[name] = study.store.part(
            f"d-following-{name.replace(' ', '-')}",
            lambda m=method: _measured(task, m),
            weights=study.model.weights_hash,
            pictures=len(data),
        )
    study.watch("maps of blind and of worse models", len(methods), len(methods))
    return {"pictures": len(data), "ladders": _ladders(task), "methods": found}


def _measured(task: AuditTask, method: Method) -> Part:
    subject = Subject(method)
    context = CheckContext(model=task.model, labelled=task)
    blind = BlindModelCheck().measure(subject, context)
    return {
        "blind": {"verdict": blind.verdict, "evidence": blind.evidence, **blind.numbers},
        "ladders": {
            name: track_ladder(
                task, subject, usable_ladder(task, name), level=statistics.LEVEL
            ).plain
            for name in LADDERS
        },
    }


def _ladders(task: AuditTask) -> dict[str, Any]:
    """Return the rungs of each ladder with the model's accuracy there."""
    rungs = {name: usable_ladder(task, name).rungs for name in LADDERS}
    return {
        name: {
            "rungs": [rung.name for rung in ladder],
            "accuracy": [
                statistics.mean(task.outscored(rung), bounds=SHARE).plain for rung in ladder
            ],
        }
        for name, ladder in rungs.items()
    }
