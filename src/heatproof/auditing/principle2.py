"""Principle 2, follow the model's performance: all of its checks, on one bench.

The negative controls (noise, a bump in the middle, a prompt-blind map) and the positive one (a map
that follows by construction) go through every check with a controlled statistic: see `judging`.
"""

from collections.abc import Callable

from heatproof.auditing.base import Finding
from heatproof.auditing.checks.attribution_error import attribution_error
from heatproof.auditing.checks.graded import graded
from heatproof.auditing.checks.moved_model import moved
from heatproof.auditing.checks.null_prompts import null_prompts
from heatproof.auditing.checks.right_wrong import right_wrong
from heatproof.auditing.checks.sign import sign
from heatproof.auditing.task import AuditTask
from heatproof.data.dataset import LabelledImages
from heatproof.data.scenes.single_attribute import asked
from heatproof.evaluation.subject import Auditable, Subject
from heatproof.models import Model

CHECKS = (graded, moved, right_wrong, null_prompts, sign, attribution_error)


def bench(
    model: Model, data: LabelledImages | None = None, *, scenes: int | None = 300, seed: int = 0
) -> AuditTask:
    """What methods are audited on: by default scenes that ask for shapes alone.

    scenes: how many pictures at most; fewer make intervals wider and an audit cheaper. One bench
    serves any number of methods, and measures its controls once.
    """
    if data is None:
        return AuditTask(model, asked(300 if scenes is None else scenes, seed=seed), seed=seed)
    return AuditTask(model, data.first(scenes), seed=seed)


def follow(
    method: Auditable | Subject, on: AuditTask, *, progress: Callable[[str], None] | None = None
) -> list[Finding]:
    """Every check of principle 2, in the order of `CHECKS`."""
    subject = method if isinstance(method, Subject) else Subject.of(method)
    found: list[Finding] = []
    for number, check in enumerate(CHECKS, 1):
        if progress is not None:
            name = check.__name__.replace("_", " ")
            progress(f"{subject.name}: {name} ({number}/{len(CHECKS)})")
        found.append(check(subject, on))
    return found
