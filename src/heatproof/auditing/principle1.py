"""Principle 1, explain the model itself: the five checks with sensible sizes."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

from PIL import Image
from torch import Tensor

from heatproof.auditing.base import Finding
from heatproof.auditing.checks import implied_model, parity, readout, reparametrisation
from heatproof.auditing.labelled import Labelled
from heatproof.auditing.monitor import monitor
from heatproof.evaluation.subject import Subject
from heatproof.models import Model
from heatproof.reading.weight_edits import restored

SMALL = 20_000_000
"""Models of fewer parameters are shown twice as many pictures."""
IMAGES, PROMPTS = 2, 6
"""ImageInputs and prompts that are scored; maps are made of one picture and two prompts."""

Progress = Callable[[str, int, int], None]


def explain_the_model_itself(
    subject: Subject,
    model: Model,
    images: Sequence[Image.Image] | Tensor,
    prompts: Sequence[str] | Tensor,
    *,
    labelled: Labelled | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Finding]:
    """All five checks: parity, forward monitor, reparametrisation, readout, implied model.

    Args:
        images: photographs, or the model's preprocessed pixels; the first few are used.
        prompts: texts, class names, or embeddings where no tokenizer is at hand.
        labelled: pictures with a right prompt, for the accuracy of implied models.
        progress: called before each check with its name, its number from 0 and their count.

    The model's weights are changed on the way, and are bit for bit what they were afterwards.
    """
    times = 2 if sum(each.numel() for each in model.module.parameters()) < SMALL else 1
    few, asked = images[:times], prompts[:2]
    scored = (images[: IMAGES * times], prompts[:PROMPTS])
    checks: dict[str, Callable[[], Finding]] = {
        "parity": lambda: parity.check(subject, model, *scored),
        "forward monitor": lambda: monitor.check(subject, model, few, asked, seed=seed),
        "reparametrisation": lambda: reparametrisation.check(subject, model, few, asked, seed=seed),
        "readout": lambda: readout.check(subject, model, few, asked, seed=seed),
        "implied model": lambda: implied_model.check(subject, model, *scored, labelled=labelled),
    }
    found: list[Finding] = []
    for number, (name, run) in enumerate(checks.items()):
        if progress is not None:
            progress(name, number, len(checks))
        with restored(model.module) if subject.method.foreign else nullcontext():
            found.append(run())
    return found
