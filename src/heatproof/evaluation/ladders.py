"""Ladders: one model made worse step by step, in one way, from as it is to chance.

| ladder | rungs |
|---|---|
| one head | one head over the full width in the last 1, a third, two thirds, all layers |
| blindness | half, 3/4, 9/10, all of the patches hidden from the readout |
| noise | 15, 30, 40, 50, 100 % of the image tower's values shuffled in |
| quantisation | the image tower's matrices in 8, 4, 3 bits |
| pruning | the smallest 30, 50, 70, 90 % of the image tower's weights set to zero |

The first rung of each is the model as it is. They were fixed before any figure was looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from heatproof.errors import ReadingError
from heatproof.evaluation.blindness import partly_blind
from heatproof.evaluation.variants import (
    UNTOUCHED,
    Variant,
    noised,
    one_headed,
    pruned,
    quantised,
)
from heatproof.models import Model
from heatproof.reading import AttentionLayer

LADDERS = ("one head", "blindness", "noise", "quantisation", "pruning")
HIDDEN = (0.5, 0.75, 0.9, 1.0)
NOISE = (0.15, 0.3, 0.4, 0.5, 1.0)
BITS = (8, 4, 3)
PRUNED = (0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Ladder:
    """A model as it is, then worse and worse; `why_not` where this model allows no such ladder."""

    name: str
    rungs: tuple[Variant, ...]
    why_not: str = ""


def ladder(name: str, model: Model, layers: Sequence[AttentionLayer], *, seed: int = 0) -> Ladder:
    """Return the ladder of this name (one of `LADDERS`) on the image tower's attention calls."""
    try:
        rungs = _rungs(name, model, layers, seed)
    except ReadingError as error:
        return Ladder(name, (UNTOUCHED,), str(error))
    return Ladder(name, (UNTOUCHED, *rungs))


def _rungs(
    name: str, model: Model, layers: Sequence[AttentionLayer], seed: int
) -> tuple[Variant, ...]:
    match name:
        case "one head":
            return tuple(one_headed(model, layers, n) for n in _depths(len(layers)))
        case "blindness":
            return tuple(partly_blind(model, layers, share, seed=seed) for share in HIDDEN)
        case "noise":
            return tuple(noised(model, share, seed=seed) for share in NOISE)
        case "quantisation":
            return tuple(quantised(model, bits) for bits in BITS)
        case "pruning":
            return tuple(pruned(model, share) for share in PRUNED)
        case _:
            raise ValueError(f"got a ladder {name!r}, expected one of {', '.join(LADDERS)}")


def _depths(layers: int) -> tuple[int, ...]:
    parts = (1, round(layers / 3), round(2 * layers / 3), layers)
    return tuple(dict.fromkeys(max(1, depth) for depth in parts))
