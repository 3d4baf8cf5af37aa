"""How sure a figure is: shares, means, paired differences and rank correlations with intervals.

| figure | interval | source |
|---|---|---|
| `wilson` | a share of successes: Wilson's score interval | Wilson, JASA 22 (1927) |
| `mean` | mean over units: percentile bootstrap over units | Efron, Annals of Statistics 7 (1979) |
| `paired` | mean of differences within units, likewise | |
| `spearman` | rank correlation over units, ties at their mean rank, likewise | Spearman (1904) |
| `resampled` | any statistic of resampled units | |

All are 95 % intervals and two-sided. Bootstraps are seeded: the same values and seed give the same
interval. A unit is what was drawn independently: a scene, never a patch. Units whose value is NaN
are left out, and `count` says how many are left.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

DRAWS = 2000
Z = 1.959964


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval, from `count` units; all NaN where there are none."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def plain(self) -> dict[str, float | int | None]:
        """As JSON has it: NaN, which JSON has not, becomes null."""
        values = {"value": self.value, "low": self.low, "high": self.high}
        shown = {k: None if math.isnan(v) else round(v, 6) for k, v in values.items()}
        return {**shown, "count": self.count}


def wilson(hits: int | float, count: int) -> Interval:
    """Share of successes; the interval never leaves [0, 1] and is [0, 1] where nothing was seen."""
    if not count:
        return Interval(math.nan, 0.0, 1.0, 0)
    share = hits / count
    scale = 1 + Z * Z / count
    middle = (share + Z * Z / (2 * count)) / scale
    half = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count)) / scale
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), count)


def draws(units: int, seed: int, count: int = DRAWS) -> Int64[Tensor, "draw unit"]:
    """Indices of resampled units: the same for the same seed, so that statistics can be paired."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(units, (count, units), generator=generator)


def mean(values: Float[Tensor, " unit"], *, seed: int = 0) -> Interval:
    """Mean over units."""
    kept = values[~values.isnan()].double()
    if not len(kept):
        return Interval(math.nan, math.nan, math.nan, 0)
    return _percentiles(float(kept.mean()), kept[draws(len(kept), seed)].mean(1), len(kept))


def paired(
    one: Float[Tensor, " unit"], other: Float[Tensor, " unit"], *, seed: int = 0
) -> Interval:
    """Mean of `one - other` over the units that have both."""
    return mean(one - other, seed=seed)


def resampled(
    statistic: Callable[[Int64[Tensor, "draw unit"]], Float[Tensor, " draw"]],
    units: int,
    *,
    seed: int = 0,
) -> Interval:
    """Any statistic: `statistic(rows)` gives one number for each row of unit indices.

    Draws whose statistic is NaN are left out of the interval.
    """
    if not units:
        return Interval(math.nan, math.nan, math.nan, 0)
    value = float(statistic(torch.arange(units)[None])[0])
    return _percentiles(value, statistic(draws(units, seed)).double(), units)


def correlation(x: Float[Tensor, "*batch unit"], y: Float[Tensor, "*batch unit"]) -> Tensor:
    """Spearman's rank correlation along the last axis; 0 where either is constant.

    A constant follows nothing: so says 0, where the formula divides by zero.
    """
    a, b = (ranks(t) - (t.shape[-1] + 1) / 2 for t in (x, y))
    scale = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return (a * b).sum(-1) / scale.masked_fill(scale == 0, 1)


def ranks(values: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch unit"]:
    """Ranks from 1 along the last axis, ties at their mean rank; for up to some hundred units."""
    below = (values.unsqueeze(-2) < values.unsqueeze(-1)).sum(-1)
    equal = (values.unsqueeze(-2) == values.unsqueeze(-1)).sum(-1)
    return below + (equal.double() + 1) / 2


def spearman(x: Float[Tensor, " unit"], y: Float[Tensor, " unit"], *, seed: int = 0) -> Interval:
    """Rank correlation of `x` and `y` over units, resampled over units."""
    both = ~(x.isnan() | y.isnan())
    a, b = x[both].double(), y[both].double()
    if len(a) < 3:
        return Interval(math.nan, -1.0, 1.0, len(a))

    def statistic(rows: Tensor) -> Tensor:
        return torch.cat([correlation(a[part], b[part]) for part in rows.split(50)])

    return resampled(statistic, len(a), seed=seed)


def _percentiles(value: float, drawn: Float[Tensor, " draw"], count: int) -> Interval:
    kept = drawn[~drawn.isnan()].double()
    if math.isnan(value) or not len(kept):
        return Interval(value, math.nan, math.nan, count)
    low, high = torch.quantile(kept, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(value, low, high, count)
