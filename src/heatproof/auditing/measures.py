"""Small measures that several checks share: relative changes, rank agreement, places in code."""

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
    """What `run` gives; None where the model does not take the input that it is run on."""
    try:
        return run()
    except (HeatproofError, RuntimeError, ValueError, AssertionError) as error:
        if memory_is_full(error):
            raise
        return None


def relative_change(new: Tensor, old: Tensor) -> float:
    """|new - old| / |old| in the Euclidean norm; 1 where only `old` is zero."""
    new, old = new.double(), old.double()
    length, gap = float(old.norm()), float((new - old).norm())
    if gap == 0:
        return 0.0
    return gap / length if length else 1.0


def ranking(
    yours: Float[Tensor, "image prompt"], theirs: Float[Tensor, "image prompt"]
) -> dict[str, Any]:
    """How prompts rank by `theirs` against by `yours`: mean over images, and changed winners."""
    yours, theirs = yours.double(), theirs.double()
    return {
        "spearman": _mean(statistics.spearman(yours, theirs)),
        "kendall": _mean(statistics.kendall(yours, theirs)),
        "best prompt flips": int((yours.argmax(1) != theirs.argmax(1)).sum()),
        "images": len(yours),
        "prompts": yours.shape[1],
    }


def _mean(values: Float[Tensor, " image"]) -> float | None:
    """Over the images where the correlation has a value; None where it has none."""
    mean = float(values.nanmean())
    return None if math.isnan(mean) else mean


def percent(share: float) -> str:
    """A share as people read it: 57 %, 0.31 %, 3e-06 %."""
    hundredths = 100 * share
    return f"{hundredths:.0f} %" if hundredths >= 9.5 else f"{hundredths:.2g} %"


def code_of(method: Method, part: str) -> str:
    """module:line of the function that causes what was found: user code, or a part of ours.

    No machine's paths: a module's name is the same everywhere.
    """
    if isinstance(method, Foreign):
        return place(method.call)
    return place(getattr(type(method), part))


def place(found: Callable[..., Any]) -> str:
    """module:line (name) of a function, a class, or an object's class."""
    named = found if hasattr(found, "__qualname__") else type(found)
    plain = inspect.unwrap(named)
    name = getattr(plain, "__qualname__", type(plain).__name__)
    try:
        line = inspect.getsourcelines(plain)[1]
    except (OSError, TypeError):
        return f"{plain.__module__} ({name})"
    return f"{plain.__module__}:{line} ({name})"
