"""F: how far a map follows the cause as a model gets worse.

On every rung r of a ladder (`evaluation.ladders`), and over the images of a task:

- t_r, the cause: the share of the other objects whose removal costs the prompt less than that of
  the named one does (`evaluation.counterfactual`). It is how far the model itself goes by it.
- q_r, the map: the share of the other objects that are less hot than the named one.
- Both become d' = sqrt(2) probit(mean), clipped at 1 / 2N for N images: shares saturate, d' does
  not. Chance is 0.
- F is the slope, over rungs, of d'(q_r) / d'(q_0) on d'(t_r) / d'(t_0): 1 where the map loses what
  the model loses, 0 where it stays as it was, above 1 where it loses more.

Intervals are bootstraps over images, of one model and one ladder. `statistics.combined` joins those
of several models.

Rules, written down before any figure of these ladders was looked at:

- F is given where three things hold, and else the reason is: on the model as it is the map is above
  chance (its 95 % interval), and so is the cause; on the worst rung the cause keeps at most `LOST`
  = 60 % of its d'. A map that finds nothing cannot lose it, and a model that loses nothing is no
  test.
- The map is *unmoved* where F's interval lies below `HALF` = 1/2: it loses less than half of what
  the model loses. It *follows* where the interval lies above 1/2. In between nothing is told.
- One rung can make a slope: F without the first rung stands beside it, and decides nothing.
- Fewer than `FEWEST` = 100 images give no verdict. 500 are a good number: with 200, a map that
  stays as it is has an interval about 0.7 wide.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from heatproof import statistics
from heatproof.statistics import NOTHING, SHARE, Interval

LOST = 0.6
HALF = 0.5
FEWEST = 100
Step = Literal["follows", "unmoved", "cannot tell", "not asked"]


@dataclass(frozen=True, kw_only=True)
class LadderTracking:
    """A map's course down one ladder beside the cause's.

    cause, quality: t_r and q_r by rung. cause_kept, quality_kept: the share of d' that is left.
    following: F; without_first: F of the rungs but the first. why_not: why F is not given.
    """

    cause: tuple[Interval, ...]
    quality: tuple[Interval, ...]
    cause_kept: tuple[float, ...]
    quality_kept: tuple[float, ...]
    following: Interval
    without_first: Interval
    why_not: str = ""

    @property
    def step(self) -> Step:
        """What F says, by the rules above."""
        if self.why_not:
            return "not asked"
        if self.following.count < FEWEST:
            return "cannot tell"
        if self.following.high < HALF:
            return "unmoved"
        return "follows" if self.following.low > HALF else "cannot tell"

    @property
    def plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "cause": [interval.plain for interval in self.cause],
            "quality": [interval.plain for interval in self.quality],
            "cause kept": [_finite(share) for share in self.cause_kept],
            "quality kept": [_finite(share) for share in self.quality_kept],
            "following": self.following.plain,
            "without the first rung": self.without_first.plain,
            "step": self.step,
            "why not": self.why_not,
        }


def d_prime(share: Float[Tensor, "*any"], count: int) -> Float[Tensor, "*any"]:
    """Return sqrt(2) times the probit of a share of wins, clipped at 1 / 2 `count`."""
    least = 1 / (2 * max(count, 1))
    return math.sqrt(2) * torch.special.ndtri(share.double().clamp(least, 1 - least))


def track(
    cause: Float[Tensor, "rung image"],
    quality: Float[Tensor, "rung image"],
    *,
    level: float = statistics.LEVEL,
    seed: int = 0,
) -> LadderTracking:
    """Compare a map's course with the cause's, rung by rung, over the images that have both.

    level: of F's interval. Shares and gates have 95 % intervals.
    """
    known = ~(cause.isnan() | quality.isnan()).any(0)
    cause, quality = cause[:, known].double(), quality[:, known].double()
    shares = [tuple(statistics.mean(row, bounds=SHARE) for row in s) for s in (cause, quality)]
    everything = torch.arange(cause.shape[1])[None]
    # Shares of d' that are left: (rung,) each, from all images.
    kept = [_kept(side, everything)[0] for side in (cause, quality)]
    why_not = _why_not(shares[0][0], shares[1][0], kept[0])

    def slope(first: int) -> Interval:
        def statistic(rows: Int64[Tensor, "draw unit"]) -> Float[Tensor, " draw"]:
            return _slope(_kept(cause, rows)[:, first:], _kept(quality, rows)[:, first:])

        return NOTHING if why_not else _bootstrapped(statistic, cause.shape[1], level, seed)

    return LadderTracking(
        cause=shares[0],
        quality=shares[1],
        cause_kept=tuple(kept[0].tolist()),
        quality_kept=tuple(kept[1].tolist()),
        following=slope(0),
        # Two points make a line through each: no slope is left to be estimated from one.
        without_first=slope(1) if len(cause) > 2 else NOTHING,
        why_not=why_not,
    )


def not_asked(
    cause: Float[Tensor, "rung image"], first: Float[Tensor, " image"]
) -> LadderTracking | None:
    """Return why F is not given, from the map on the first rung alone; None where it is asked for.

    The other rungs then need not be measured.
    """
    known = ~(cause.isnan().any(0) | first.isnan())
    cause, quality = cause[:, known].double(), first[None, known].double()
    shares = [tuple(statistics.mean(row, bounds=SHARE) for row in s) for s in (cause, quality)]
    kept = _kept(cause, torch.arange(cause.shape[1])[None])[0]
    why_not = _why_not(shares[0][0], shares[1][0], kept)
    if not why_not:
        return None
    return LadderTracking(
        cause=shares[0],
        quality=shares[1],
        cause_kept=tuple(kept.tolist()),
        quality_kept=(1.0,),
        following=NOTHING,
        without_first=NOTHING,
        why_not=why_not,
    )


def _bootstrapped(statistic: Any, units: int, level: float, seed: int) -> Interval:
    return statistics.bootstrap(statistic, units, seed=seed, level=level)


def _why_not(cause: Interval, quality: Interval, left: Float[Tensor, " rung"]) -> str:
    if not cause.count:
        return "no image has two objects or more whose cost and heat are known"
    if not cause.low > 0.5:
        return (
            f"the model itself does not go by the named object: its removal costs most of {cause}"
        )
    if not quality.low > 0.5:
        return f"the map does not find the object on the model as it is: hotter than {quality}"
    least = float(left.min())
    if least > LOST:
        return f"the model keeps {least:.0%} of the cause, too much for a test (limit {LOST:.0%})"
    return ""


def _kept(
    side: Float[Tensor, "rung image"], rows: Int64[Tensor, "draw unit"]
) -> Float[Tensor, "draw rung"]:
    count = side.shape[1]
    values = d_prime(side[:, rows].mean(-1).T, count)
    first = values[:, :1]
    # Draws in which the first rung is at chance or below have no share of it.
    return values / first.masked_fill(first <= 0, torch.nan)


def _slope(x: Float[Tensor, "draw rung"], y: Float[Tensor, "draw rung"]) -> Float[Tensor, " draw"]:
    """Return least squares with an intercept; NaN where x does not vary."""
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    spread = x.square().sum(1)
    return (x * y).sum(1) / spread.masked_fill(spread == 0, torch.nan)


def _finite(number: float) -> float | None:
    return round(number, 6) if math.isfinite(number) else None
