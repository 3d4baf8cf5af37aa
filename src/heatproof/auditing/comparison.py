"""Compare tensors and rankings, and put what was found into words for several checks."""

import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof import statistics
from heatproof.checking import memory_is_full
from heatproof.errors import HeatproofError
from heatproof.methods import Foreign, Method

T = TypeVar("T")
EPSILON = float(torch.finfo(torch.float32).eps)


def unless_refused(run: Callable[[], T]) -> T | None:
    """Return what `run` returns, or None where the model refuses the input that it is run on."""
    try:
        return run()
    except (HeatproofError, RuntimeError, ValueError, AssertionError) as error:
        if memory_is_full(error):
            raise
        return None


def relative_change(new: Tensor, old: Tensor) -> float:
    """Return |new - old| / |old| in the Euclidean norm; 1 where only `old` is zero."""
    new, old = new.double(), old.double()
    length, gap = float(old.norm()), float((new - old).norm())
    if gap == 0:
        return 0.0
    return gap / length if length else 1.0


def rank_agreement(
    scores: Float[Tensor, "image prompt"], others: Float[Tensor, "image prompt"]
) -> dict[str, Any]:
    """Compare how two score matrices rank the prompts of each image.

    The correlations are means over images, None where no image has one. A flip is an image whose
    best prompt differs.
    """
    scores, others = scores.double(), others.double()
    return {
        "spearman": _mean(statistics.spearman(scores, others)),
        "kendall": _mean(statistics.kendall(scores, others)),
        "best prompt flips": int((scores.argmax(1) != others.argmax(1)).sum()),
        "images": len(scores),
        "prompts": scores.shape[1],
    }


def _mean(values: Float[Tensor, " image"]) -> float | None:
    mean = float(values.nanmean())
    return None if math.isnan(mean) else mean


def percent(share: float) -> str:
    """Format a share as people read it: 57 %, 0.31 %, 3e-06 %."""
    hundredths = 100 * share
    return f"{hundredths:.0f} %" if hundredths >= 9.5 else f"{hundredths:.2g} %"


def code_of(method: Method, part: str) -> str:
    """Return the place of user code, or of one member of a method of ours."""
    return place(method.call if isinstance(method, Foreign) else getattr(type(method), part))


def place(code: Callable[..., Any]) -> str:
    """Return "module:line (name)" of a function, a class, or an object's class.

    A path would differ from machine to machine, and an audit's files should not.
    """
    named = inspect.unwrap(code if hasattr(code, "__qualname__") else type(code))
    name = getattr(named, "__qualname__", type(named).__name__)
    try:
        line = inspect.getsourcelines(named)[1]
    except (OSError, TypeError):
        return f"{named.__module__} ({name})"
    return f"{named.__module__}:{line} ({name})"
