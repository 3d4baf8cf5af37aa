"""Compute intervals, rank correlations and tests: the only place that does.

| function | what | source |
|---|---|---|
| `wilson` | a share: score interval with continuity correction | Wilson, JASA 22 (1927) |
| `mean`, `means`, `paired` | a mean: Student's t or the skewness-corrected t, whichever reaches \
further | Hall, JRSS B 54 (1992) |
| the same, of 0/1 values and their differences | Wilson's intervals of what lies above and below, \
combined | Zou and Donner, Stat. Med. 27 (2008) |
| `jackknife` | a smooth statistic: `mean` of its pseudo-values | Tukey (1958) |
| `bootstrap` | a statistic that is not smooth, such as a rank correlation: percentiles | Efron, \
Ann. Stat. 7 (1979) |
| `combined` | one figure of several models: random effects, modified Knapp-Hartung interval | \
Röver et al., BMC Med. Res. Methodol. 15 (2015) |
| `spearman`, `kendall` | rank correlation, ties at their mean rank; tau-b | Kendall (1945) |
| `sign_test` | exact; of paired 0/1 values it is McNemar's | McNemar (1947) |
| `holm` | several tests at once | Holm (1979) |

All intervals are two-sided, of 95 % unless `level` says another share. A unit is what was drawn
independently: a scene, never a patch. Units whose value is NaN are left out, and `count` says how
many are left. What the intervals cover, from 2 units to 500: `benchmarks/coverage.py`.

Three rules make them hold for few units and for skewed values:

- below `FEWEST` units t is that of a fifth of the tails, and no verdict may be drawn;
- where more than half of the units share one value and fewer than `DIFFERING` have another, their
  spread cannot be measured: the interval is Wilson's within the `bounds` of a value. Where a value
  has no bounds, others are taken to lie within twice the size of the common one; where that is 0,
  there is no interval (its ends are infinite);
- small samples understate skewness: it is taken `SKEW` times as large as measured.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Float, Int64
from scipy import special, stats
from torch import Tensor

LEVEL = 0.95
DRAWS = 2000
FEWEST = 10
DIFFERING = 5
SKEW = 4 / 3
TAILS = 5

Bounds = tuple[float | int, float | int]
SHARE: Bounds = (0.0, 1.0)


@dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval, from `count` units.

    Without units value and ends are NaN; where nothing is known of an end, it is infinite.
    p: two-sided, of the hypothesis that the figure is 0; NaN where it was not tested.
    """

    value: float
    low: float
    high: float
    count: int
    p: float = math.nan

    def __str__(self) -> str:
        # Adding zero makes a negative zero positive.
        value, low, high = (_rounded(number) for number in (self.value, self.low, self.high))
        if not (math.isfinite(low) and math.isfinite(high)):
            return f"{value:.3f} [no interval]"
        return f"{value:.3f} [{low:.3f}, {high:.3f}]"

    @property
    def plain(self) -> dict[str, float | int | None]:
        """The figure as JSON has it: NaN and infinity, which JSON does not know, become null."""
        values = {"value": self.value, "low": self.low, "high": self.high}
        shown = {k: round(v, 6) if math.isfinite(v) else None for k, v in values.items()}
        return {**shown, "count": self.count}


NOTHING = Interval(math.nan, math.nan, math.nan, 0)


def _rounded(number: float) -> float:
    return round(number, 3) + 0.0 if math.isfinite(number) else number


# --- shares -------------------------------------------------------------------------------------


def wilson(hits: float, count: int, level: float = LEVEL) -> Interval:
    """Return a share of successes; its interval is [0, 1] where nothing was seen.

    With continuity correction: without it, the interval of 5 to 50 units covers a share near 0 or 1
    as seldom as 83 %. `hits` may be a sum of values between 0 and 1: of those with the same mean,
    0 and 1 vary most.
    """
    if not count:
        return Interval(math.nan, 0.0, 1.0, 0)
    share = hits / count
    return Interval(share, *_wilson_ends(hits, count, _z(level)), count)


def _z(level: float) -> float:
    return float(special.ndtri((1 + level) / 2))


def _wilson_ends(hits: float, count: int, z: float) -> tuple[float, float]:
    share, misses = hits / count, count - hits
    scale, middle = 2 * (count + z * z), 2 * hits + z * z
    below = z * z - 2 - 1 / count + 4 * share * (misses + 1)
    above = z * z + 2 - 1 / count + 4 * share * (misses - 1)
    low = (middle - 1 - z * math.sqrt(max(0.0, below))) / scale
    high = (middle + 1 + z * math.sqrt(max(0.0, above))) / scale
    # Below one success the lowest share is 0, below one failure the highest is 1.
    low = 0.0 if hits < 1 else min(max(low, 0.0), share)
    high = 1.0 if misses < 1 else max(min(high, 1.0), share)
    return low, high


# --- means --------------------------------------------------------------------------------------


def mean(
    values: Float[Tensor, " unit"], *, bounds: Bounds | None = None, level: float = LEVEL
) -> Interval:
    """Return the mean over units; `bounds` are the least and the largest value of a unit."""
    return means(values[:, None], bounds=bounds, level=level)[0]


def paired(
    one: Float[Tensor, " unit"],
    other: Float[Tensor, " unit"],
    *,
    bounds: Bounds | None = None,
    level: float = LEVEL,
) -> Interval:
    """Return the mean of `one - other` over units that have both; `bounds` are of either side."""
    return mean(one.double() - other.double(), bounds=of_differences(bounds), level=level)


def of_differences(bounds: Bounds | None) -> Bounds | None:
    """Return the bounds of the difference of two values that have these bounds."""
    return None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])


def means(
    columns: Float[Tensor, "unit column"], *, bounds: Bounds | None = None, level: float = LEVEL
) -> list[Interval]:
    """Return the `mean` of each column; NaN are left out of each column by itself."""
    if bounds is not None and not all(map(math.isfinite, bounds)):
        bounds = None
    columns = columns.detach().cpu().double()
    if bounds is not None:  # rounding takes a cosine of float32 beyond 1
        columns = columns.clamp(*bounds)
    known = ~columns.isnan()
    count = known.sum(0)
    center = _centers(columns, known, count, bounds)
    low, high, p = _skewed_t(columns, known, count, level)
    if bounds is not None:
        low, high = low.clamp(min=bounds[0]), high.clamp(max=bounds[1])
    rows = zip(*(each.tolist() for each in (count, center, low, high, p)), strict=True)
    return [_column(columns[known[:, n], n], row, bounds, level) for n, row in enumerate(rows)]


def _column(
    values: Float[Tensor, " unit"],
    row: tuple[int, float, float, float, float],
    bounds: Bounds | None,
    level: float,
) -> Interval:
    """Return a column's interval; `row` is its count, its center if it has one, and t's answer."""
    count, center, low, high, p = row
    if not count:
        return NOTHING
    if not math.isnan(center):
        if bounds is None and center == 0:
            low, high, p = -math.inf, math.inf, 1.0
        else:
            low, high = _around(values, center, bounds or _guessed(values, center), level)
            p = sign_test(int((values > 0).sum()), int((values < 0).sum()))
    return Interval(float(values.mean()), low, high, count, p)


def _centers(
    columns: Float[Tensor, "unit column"],
    known: Bool[Tensor, "unit column"],
    count: Int64[Tensor, " column"],
    bounds: Bounds | None,
) -> Float[Tensor, " column"]:
    """Return the center for Wilson's intervals where t is of no use; NaN where t is used.

    It is the value that most units share; of 0/1 values and of their differences it is 0.
    """
    last = max(0, len(columns) - 1)
    middle = (count // 2).clamp(max=last)[None]
    common = columns.sort(0).values.gather(0, middle)[0] if len(columns) else count.double()
    held = (columns == common).sum(0)
    center = common.masked_fill((2 * held <= count) | (count - held >= DIFFERING), torch.nan)
    if bounds is None:
        return center
    base = 0.0 if bounds[0] == -bounds[1] else float(bounds[0])
    allowed = torch.tensor([*bounds, base], dtype=columns.dtype)
    return center.masked_fill((torch.isin(columns, allowed) | ~known).all(0), base)


def _skewed_t(
    columns: Float[Tensor, "unit column"],
    known: Bool[Tensor, "unit column"],
    count: Int64[Tensor, " column"],
    level: float,
) -> tuple[Float[Tensor, " column"], Float[Tensor, " column"], Float[Tensor, " column"]]:
    """Return ends and p by Student's t or Hall's transformation, whichever reaches further."""
    n = count.clamp(min=2).double()
    value = columns.nansum(0) / count.clamp(min=1)
    apart = (columns - value).masked_fill(~known, 0)
    deviation = (apart.square().sum(0) / (n - 1)).sqrt()
    root = n.sqrt()
    third = apart.pow(3).sum(0) * n / ((n - 1) * (n - 2).clamp(min=1))
    skew = SKEW * third / deviation.pow(3) / (6 * root)
    skew = skew.masked_fill((count < 3) | (deviation == 0), 0)
    tail = torch.full_like(n, (1 - level) / 2)
    # Few units understate the spread of skewed values, which t alone does not cover.
    tail[count < FEWEST] /= TAILS
    t = torch.from_numpy(special.stdtrit((n - 1).numpy(), (1 - tail).numpy()))
    error = deviation / root
    low = value - error * torch.maximum(t, _unskewed(t, skew))
    high = value - error * torch.minimum(-t, _unskewed(-t, skew))
    plain = value / error
    corrected = _skewed(plain, skew)
    far = torch.minimum(plain.abs(), corrected.abs()).masked_fill(~(plain * corrected > 0), 0)
    p = 2 * torch.from_numpy(special.stdtr((n - 1).numpy(), -far.numpy()))
    none = (count < 2) | (deviation == 0)
    return (
        low.masked_fill(none, -torch.inf),
        high.masked_fill(none, torch.inf),
        p.masked_fill(none, 1.0),
    )


def _skewed(t: Float[Tensor, " column"], a: Float[Tensor, " column"]) -> Float[Tensor, " column"]:
    """Apply Hall's cubic transformation, which takes skewness out; `a` is skewness / 6 sqrt(n)."""
    return t + 2 * a * t.square() + 4 / 3 * a.square() * t.pow(3) + a


def _unskewed(t: Float[Tensor, " column"], a: Float[Tensor, " column"]) -> Float[Tensor, " column"]:
    """Invert `_skewed`."""
    cube = 1 + 6 * a * (t - a)
    inverse = (cube.sign() * cube.abs().pow(1 / 3) - 1) / (2 * a)
    # Without skewness both are the identity, and the formula is 0 / 0.
    return torch.where(a.abs() < 1e-9, t, inverse)


def _guessed(values: Float[Tensor, " unit"], common: float) -> Bounds:
    reach = 2 * abs(common)
    return min(common - reach, float(values.min())), max(common + reach, float(values.max()))


def _around(
    values: Float[Tensor, " unit"], center: float, bounds: Bounds, level: float
) -> tuple[float, float]:
    """Return ends of the mean, from Wilson's intervals of what lies above and below `center`.

    For 0/1 values this is Wilson's interval itself, for their differences that of two shares of
    one sample, whose correlation widens it.
    """
    count, z = len(values), _z(level)
    up, down = bounds[1] - center, center - bounds[0]
    above = float((values - center).clamp(min=0).sum()) / up if up else 0.0
    below = float((center - values).clamp(min=0).sum()) / down if down else 0.0
    a, b = above / count, below / count
    (a_low, a_high), (b_low, b_high) = (_wilson_ends(hits, count, z) for hits in (above, below))
    # Two shares of one sample; where one of them is all of it, the other has what that one lacks.
    apart = (1 - a) * (1 - b)
    correlation = -math.sqrt(min(1.0, a * b / apart)) if apart > 0 else -1.0
    value = center + a * up - b * down

    def reach(one: float, other: float) -> float:
        one, other = one * up, other * down
        return math.sqrt(one * one + other * other - 2 * correlation * one * other)

    low = value - reach(a - a_low, b_high - b)
    high = value + reach(a_high - a, b - b_low)
    return max(low, bounds[0]), min(high, bounds[1])


# --- other statistics -----------------------------------------------------------------------------


def jackknife(
    statistic: Callable[[Int64[Tensor, "draw unit"]], Float[Tensor, " draw"]],
    units: int,
    *,
    bounds: Bounds | None = None,
    level: float = LEVEL,
) -> Interval:
    """Return a smooth statistic of means with its interval; `bounds` are the statistic's own.

    `statistic(rows)` gives one number for each row of unit indices. There is no interval where
    leaving out one unit leaves no statistic.
    """
    if not units:
        return NOTHING
    everything = torch.arange(units)
    value = float(statistic(everything[None])[0])
    if math.isnan(value):
        return Interval(value, math.nan, math.nan, units)
    if units < 2:
        return Interval(value, -math.inf, math.inf, units, 1.0)
    others = everything.expand(units, units)[~torch.eye(units, dtype=torch.bool)]
    without = statistic(others.view(units, units - 1)).double()
    if bool(without.isnan().any()):
        return Interval(value, -math.inf, math.inf, units, 1.0)
    pseudo = units * value - (units - 1) * without
    # Centred on the statistic itself: the mean of pseudo-values is the less biased estimate, but
    # it is the statistic that is reported.
    interval = mean(pseudo - pseudo.mean() + value, bounds=bounds, level=level)
    return Interval(value, interval.low, interval.high, units, interval.p)


def bootstrap(
    statistic: Callable[[Int64[Tensor, "draw unit"]], Float[Tensor, " draw"]],
    units: int,
    *,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Return a statistic that is not smooth, such as a rank correlation, with its interval.

    Draws whose statistic is NaN are left out; fewer than `FEWEST` units give no interval. The same
    seed gives the same interval.
    """
    if not units:
        return NOTHING
    value = float(statistic(torch.arange(units)[None])[0])
    if math.isnan(value):
        return Interval(value, math.nan, math.nan, units)
    if units < FEWEST:
        return Interval(value, -math.inf, math.inf, units)
    generator = torch.Generator().manual_seed(seed)
    # All draws at once: a statistic sees whole rows, and the seed decides them all.
    rows = torch.randint(units, (DRAWS, units), generator=generator)
    drawn = torch.cat([statistic(part) for part in rows.split(50)]).double()
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(drawn[~drawn.isnan()], ends).tolist()
    return Interval(value, low, high, units)


def combined(estimates: Sequence[Interval], level: float = LEVEL) -> Interval:
    """Return the mean of one figure over several models (say), with its interval over both the
    units of each and the models.

    Random effects: the variance between models (DerSimonian and Laird 1986) is added to each one's
    own, and the interval is t's of one degree of freedom less than models, never narrower than
    the weights say (the modified Knapp-Hartung interval). `estimates` are 95 % intervals of
    `LEVEL`; those without a finite interval are left out, and one alone is returned as it is.
    `count` is the number of models.
    """
    known = [one for one in estimates if math.isfinite(one.low) and math.isfinite(one.high)]
    if len(known) < 2:
        return known[0] if known else NOTHING
    values = torch.tensor([one.value for one in known], dtype=torch.float64)
    widths = torch.tensor([one.high - one.low for one in known], dtype=torch.float64)
    own = (widths / (2 * _z(LEVEL))).square().clamp(min=torch.finfo(torch.float64).tiny)
    weight = 1 / own
    center = (weight * values).sum() / weight.sum()
    excess = (weight * (values - center).square()).sum() - (len(known) - 1)
    scale = weight.sum() - weight.square().sum() / weight.sum()
    weight = 1 / (own + (excess / scale).clamp(min=0))
    value = (weight * values).sum() / weight.sum()
    spread = (weight * (values - value).square()).sum() / (len(known) - 1)
    error = float((spread.clamp(min=1) / weight.sum()).sqrt())
    reach = float(special.stdtrit(len(known) - 1, (1 + level) / 2)) * error
    return Interval(float(value), float(value) - reach, float(value) + reach, len(known))


# --- ranks ----------------------------------------------------------------------------------------


def spearman(
    x: Float[Tensor, "*batch unit"], y: Float[Tensor, "*batch unit"]
) -> Float[Tensor, "*batch"]:
    """Return rank correlations along the last axis; ties share a rank, NaN where one is constant.

    scipy's `spearmanr`, of many pairs at once.
    """
    a, b = (ranks(side) - (side.shape[-1] + 1) / 2 for side in (x, y))
    scale = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return (a * b).sum(-1) / scale.masked_fill(scale == 0, torch.nan)


def ranks(values: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch unit"]:
    """Return ranks from 1 along the last axis, ties at their mean rank."""
    return torch.from_numpy(stats.rankdata(values.detach().cpu().numpy(), axis=-1)).double()


def kendall(
    x: Float[Tensor, "*batch unit"], y: Float[Tensor, "*batch unit"]
) -> Float[Tensor, "*batch"]:
    """Return Kendall's tau-b along the last axis.

    That is pairs in the same order less pairs in the opposite one, over the geometric mean of the
    untied pairs; NaN where all are tied on either side.

    scipy's `kendalltau`, of many pairs at once.
    """
    a, b = ((side.unsqueeze(-1) - side.unsqueeze(-2)).sign().double() for side in (x, y))
    scale = (a.square().sum((-1, -2)) * b.square().sum((-1, -2))).sqrt()
    return (a * b).sum((-1, -2)) / scale.masked_fill(scale == 0, torch.nan)


# --- tests ----------------------------------------------------------------------------------------


@cache
def sign_test(one: int, other: int) -> float:
    """Return the exact two-sided p of a split of one + other fair coins at least as uneven."""
    count = one + other
    return float(stats.binomtest(one, count).pvalue) if count else 1.0


def holm(p: Sequence[float], family: int = 0) -> list[float]:
    """Return each p, adjusted for all that are tested together (a family).

    Where a claim needs an adjusted p of at most 0.05, at most one family in twenty holds a false
    claim. NaN stay NaN, and do not count. family: how many could have been tested, where those
    that are were chosen by what was seen.
    """
    tested = sorted((value, n) for n, value in enumerate(p) if not math.isnan(value))
    size = max(family, len(tested))
    adjusted = [math.nan] * len(p)
    largest = 0.0
    for place, (value, n) in enumerate(tested):
        largest = max(largest, min(1.0, (size - place) * value))
        adjusted[n] = largest
    return adjusted
