"""Small measures that several checks share: relative changes, rank agreement, intervals, places."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.methods import Foreign, Method

EPSILON = float(torch.finfo(torch.float32).eps)
Z95 = 1.959964


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
    ranks = torch.stack([_ranks(one), _ranks(other)])
    centred = ranks - ranks.mean(1, keepdim=True)
    lengths = centred.norm(dim=1)
    if bool((lengths == 0).any()):
        return math.nan
    return float((centred[0] @ centred[1]) / (lengths[0] * lengths[1]))


def _ranks(values: Tensor) -> Tensor:
    below = (values[:, None] > values[None, :]).sum(1)
    equal = (values[:, None] == values[None, :]).sum(1)
    return (below + (equal - 1) / 2).double()


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


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; it never leaves [0, 1]."""
    if not count:
        return 0.0, 1.0
    p, z = hits / count, Z95
    scale = 1 + z * z / count
    middle = (p + z * z / (2 * count)) / scale
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


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
    """module:line of the function that causes what was found: a stranger's own, or a part of ours.

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
