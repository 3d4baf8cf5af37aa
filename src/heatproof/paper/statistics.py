"""Intervals and ranks for the page: Wilson for shares, the bootstrap for means, all at 95 %."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

DRAWS = 2000
Z = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, from `count` items."""

    value: float
    low: float
    high: float
    count: int

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def share(hits: int, count: int) -> Estimate:
    """A share with Wilson's interval (JASA 1927), which stays in [0, 1] and is sound at its ends."""
    if not count:
        return Estimate(math.nan, 0.0, 1.0, 0)
    p, spread = hits / count, Z * Z / count
    middle = (p + spread / 2) / (1 + spread)
    half = math.sqrt(p * (1 - p) * spread + spread * spread / 4) / (1 + spread)
    return Estimate(p, max(0.0, middle - half), min(1.0, middle + half), count)


def mean(values: Sequence[float], seed: int) -> Estimate:
    """A mean with the percentile bootstrap's interval, items drawn with replacement."""
    known = np.asarray([v for v in values if v is not None and math.isfinite(v)], dtype=float)
    if not len(known):
        return Estimate(math.nan, math.nan, math.nan, 0)
    drawn = _resampled(known, seed)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(known.mean()), float(low), float(high), len(known))


def difference(one: Sequence[float], other: Sequence[float], seed: int) -> Estimate:
    """The mean of paired differences `one - other`, bootstrapped over items."""
    pairs = zip(one, other, strict=True)
    return mean([a - b for a, b in pairs if a is not None and b is not None], seed)


def stratified_difference(
    values: Sequence[float],
    right: Sequence[bool],
    strata: Sequence[Any],
    seed: int,
) -> Estimate:
    """Mean where right less mean where wrong, within each stratum, strata weighted by their items.

    Strata that hold only one kind say nothing and are left out; `count` is how many items are left.
    """
    value, flag = np.asarray(values, dtype=float), np.asarray(right, dtype=bool)
    keys = sorted(set(strata))
    index = np.asarray([keys.index(each) for each in strata], dtype=int)
    found, used = _within(value, flag, index, len(keys))
    generator = np.random.default_rng(seed)
    drawn: list[float] = []
    for _ in range(DRAWS):
        pick = generator.integers(0, len(value), len(value))
        drawn.append(_within(value[pick], flag[pick], index[pick], len(keys))[0])
    finite = [each for each in drawn if math.isfinite(each)]
    if not finite or not math.isfinite(found):
        return Estimate(math.nan, math.nan, math.nan, used)
    low, high = np.quantile(finite, [0.025, 0.975])
    return Estimate(found, float(low), float(high), used)


def _within(
    value: Float[np.ndarray, " item"],
    right: Shaped[np.ndarray, " item"],
    stratum: Shaped[np.ndarray, " item"],
    strata: int,
) -> tuple[float, int]:
    total, weight = 0.0, 0
    for key in range(strata):
        here = stratum == key
        yes, no = value[here & right], value[here & ~right]
        if len(yes) and len(no):
            total += (yes.mean() - no.mean()) * int(here.sum())
            weight += int(here.sum())
    return (total / weight if weight else math.nan), weight


def _resampled(values: Float[np.ndarray, " item"], seed: int) -> Float[np.ndarray, " draw"]:
    generator = np.random.default_rng(seed)
    means: list[Any] = []
    for start in range(0, DRAWS, 100):
        count = min(100, DRAWS - start)
        pick = generator.integers(0, len(values), (count, len(values)))
        means.append(values[pick].mean(1))
    return np.concatenate(means)


def ranks(values: Sequence[float]) -> Float[np.ndarray, " item"]:
    """Ranks from 1; equal values share the mean of theirs."""
    array = np.asarray(values, dtype=float)
    below = (array[:, None] > array[None, :]).sum(1)
    same = (array[:, None] == array[None, :]).sum(1)
    return below + (same + 1) / 2.0


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation; nan where one side is constant."""
    a, b = ranks(one), ranks(other)
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])
