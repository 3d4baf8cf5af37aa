"""Small measures that several checks share: relative changes, rank agreement, intervals, places."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.errors import HeatproofError
from heatproof.methods import Foreign, Method
from heatproof.metrics import intervals

T = TypeVar("T")
EPSILON = float(torch.finfo(torch.float32).eps)


def unless_refused(run: Callable[[], T]) -> T | None:
    """What `run` gives; None where the model does not take the input that it is run on."""
    try:
        return run()
    except (HeatproofError, RuntimeError, ValueError, AssertionError) as error:
        if _is_out_of_memory(error):
            raise
        return None


def _is_out_of_memory(error: Exception) -> bool:
    told = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in told


def relative_change(new: Tensor, old: Tensor) -> float:
    """|new - old| / |old| in the Euclidean norm; 1 where only `old` is zero."""
    new, old = new.double(), old.double()
    length, gap = float(old.norm()), float((new - old).norm())
    if gap == 0:
        return 0.0
    return gap / length if length else 1.0


def kendall(one: Float[Tensor, " item"], other: Float[Tensor, " item"]) -> float:
    """Kendall's tau-a: agreeing less disagreeing pairs, of all pairs; nan for fewer than two."""
    rows, cols = torch.triu_indices(len(one), len(one), 1)
    if not len(rows):
        return math.nan
    signs = torch.sign(one[rows] - one[cols]) * torch.sign(other[rows] - other[cols])
    return float(signs.double().mean())


def spearman(one: Float[Tensor, " item"], other: Float[Tensor, " item"]) -> float:
    """Correlation of ranks, tied values sharing theirs; nan where either side is constant."""
    if any(len(side.unique()) < 2 for side in (one, other)):
        return math.nan
    return float(intervals.correlation(one.double(), other.double()))


def ranking(
    yours: Float[Tensor, "image prompt"], theirs: Float[Tensor, "image prompt"]
) -> dict[str, Any]:
    """How prompts rank by `theirs` against by `yours`: mean over images, and changed winners."""
    pairs = list(zip(yours.double(), theirs.double(), strict=True))
    return {
        "spearman": _mean([spearman(a, b) for a, b in pairs]),
        "kendall": _mean([kendall(a, b) for a, b in pairs]),
        "best prompt flips": int((yours.argmax(1) != theirs.argmax(1)).sum()),
        "images": len(pairs),
        "prompts": yours.shape[1],
    }


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


def sign_test(one: int, other: int) -> float:
    """Exact two-sided p of a split of one + other fair coins at least as uneven."""
    count, fewer = one + other, min(one, other)
    tail = sum(math.comb(count, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**count)


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
