"""Statistics as plain values for JSON, and a difference within strata."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from heatproof import statistics
from heatproof.statistics import FEWEST, SHARE, Bounds, Interval

Plain = dict[str, Any]
Values = Sequence[float | None] | Float[Tensor, " item"]


def share(hits: Bool[Tensor, " item"]) -> Plain:
    """Return a share with Wilson's interval."""
    return statistics.wilson(int(hits.sum()), len(hits)).plain


def mean(values: Values, bounds: Bounds | None = None) -> Plain:
    """Return a mean with its interval; None and NaN are left out."""
    return statistics.mean(tensor(values), bounds=bounds).plain


def paired(one: Values, other: Values, bounds: Bounds | None = None) -> Plain:
    """Return the mean of `one - other` within items; `bounds` are those of either side."""
    return statistics.paired(tensor(one), tensor(other), bounds=bounds).plain


def tensor(values: Values) -> Float[Tensor, " item"]:
    """Convert values to a tensor, None to NaN: JSON has None where a number is undefined."""
    if isinstance(values, Tensor):
        return values.double()
    nan = float("nan")
    return torch.tensor([nan if v is None else v for v in values], dtype=torch.float64)


def stratified(
    values: Float[Tensor, " item"],
    right: Bool[Tensor, " item"],
    stratum: Int[Tensor, " item"],
) -> Interval:
    """Return the mean where right minus the mean where wrong, within strata, weighted by items.

    A stratum that holds only one kind is left out; so is a value that is NaN.
    Fewer than `FEWEST` values on either side give no interval.
    """
    known = ~values.isnan()
    value, flag, place = values[known].double(), right[known], stratum[known]
    strata = int(place.max()) + 1 if len(place) else 0

    def statistic(rows: Int[Tensor, "draw unit"]) -> Float[Tensor, " draw"]:
        v, yes, s = value[rows], flag[rows], place[rows]
        total = torch.zeros(len(rows), dtype=torch.float64)
        weight = torch.zeros(len(rows), dtype=torch.float64)
        for key in range(strata):
            a, b = (s == key) & yes, (s == key) & ~yes
            na, nb = a.sum(1), b.sum(1)
            both = (na > 0) & (nb > 0)
            # A stratum with one kind only has no difference; `both` gives it no weight.
            gap = (v * a).sum(1) / na.clamp(min=1) - (v * b).sum(1) / nb.clamp(min=1)
            count = torch.where(both, na + nb, 0)
            total += count * gap
            weight += count
        return total / weight.masked_fill(weight == 0, torch.nan)

    found = statistics.jackknife(statistic, len(value), bounds=statistics.of_differences(SHARE))
    # Too few on either side: the value is shown without an interval.
    if min(int(flag.sum()), int((~flag).sum())) < FEWEST:
        return Interval(found.value, -torch.inf, torch.inf, found.count)
    return found
