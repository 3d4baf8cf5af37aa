"""Maps brought to a common scale, and where they hold no number."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def min_max(maps: Float[Tensor, "item row col"]) -> Float[Tensor, "item row col"]:
    """From 0 to 1 in float64; a constant map is a half everywhere."""
    maps = maps.double()
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), 0.5)


def broken(maps: Float[Tensor, "item row col"]) -> Bool[Tensor, " item"]:
    """Whether a map holds a value that is no number."""
    return ~maps.isfinite().all(-1).all(-1)
