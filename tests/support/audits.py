"""Contexts of checks, in few words."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from heatproof.auditing.base import CheckContext
from heatproof.auditing.task import AuditTask
from heatproof.models import Model


def on(model: Model, images: Any, prompts: Sequence[str] | Tensor, **more: Any) -> CheckContext:
    """Images and prompts, for checks of principle 1."""
    return CheckContext(model=model, images=images, prompts=prompts, **more)


def on_task(task: AuditTask) -> CheckContext:
    """Labelled images, for checks of principle 2."""
    return CheckContext(model=task.model, labelled=task, seed=task.seed)
