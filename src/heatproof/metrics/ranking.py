"""Order the cells of a map by their heat, ties by chance, as perturbation curves deal with them."""

import torch
import torchvision.transforms.functional as vision
from jaxtyping import Float, Int
from torch import Tensor


def shuffled(items: Int[Tensor, " item"], cells: int, seed: int) -> Int[Tensor, "item cell"]:
    """Return an order of the cells for each item, drawn by the seed and the item's number alone.

    Equal values come in this order. One order for all items would be one draw, however many items
    there are: a constant map's area would be as uncertain at 500 images as at one.
    """
    generator = torch.Generator()
    orders = [
        torch.randperm(cells, generator=generator.manual_seed((seed * 1_000_003 + item) % 2**63))
        for item in items.tolist()
    ]
    return torch.stack(orders) if orders else torch.empty(0, cells, dtype=torch.long)


def ranked(
    values: Float[Tensor, "item cell"], ties: Int[Tensor, "item cell"] | None = None
) -> Int[Tensor, "item cell"]:
    """Return the cells from the highest value to the lowest.

    Equal ones come as they do in `ties`; by default the earlier cell comes first.
    """
    if ties is None:
        return values.argsort(dim=-1, descending=True, stable=True)
    mixed = values.gather(1, ties).argsort(dim=-1, descending=True, stable=True)
    return ties.gather(1, mixed)


def places(order: Int[Tensor, "item cell"]) -> Int[Tensor, "item cell"]:
    """Return where each cell stands in the order, from 0."""
    count = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, count)


def stretched(
    maps: Float[Tensor, "map row col"], size: tuple[int, int]
) -> Float[Tensor, "map height width"]:
    """Return the maps at the size of an image, interpolated bilinearly."""
    return vision.resize(maps.unsqueeze(1), list(size), antialias=True)[:, 0]
