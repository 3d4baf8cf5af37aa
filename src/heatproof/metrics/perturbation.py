"""Insertion and deletion: does the score go where the map says that it comes from?

formula     s(f) = score of the picture with the share f of its most heated cells removed (deletion)
            or shown (insertion); the area is the trapezoid rule over f, divided by the span of f
direction   deletion: lower is better; insertion: higher is better
steps       `Protocol.fractions`; both ends are scored
endpoints   deletion ends in `Protocol.fill`, insertion begins in it
score space what the caller's `score` returns: a cosine, a probability, a rank
source      RISE (arXiv 1806.07421); what the Grad-ECLIP authors do differently is in `protocols`
controls    a random map, and the reversed map: a metric that does not tell them apart says nothing
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Direction = Literal["deletion", "insertion"]
BETTER: dict[Direction, Literal["lower", "higher"]] = {"deletion": "lower", "insertion": "higher"}


@dataclass(frozen=True)
class Protocol:
    """How pictures are perturbed. `fill` stands where nothing of the picture is shown.

    `space` is what is perturbed: the `photograph`, which then goes through the model's own
    preprocessing, or the `view`, the pixels that the model really sees. `flaws` are named on the
    page wherever its numbers stand.
    """

    name: str
    direction: Direction
    fractions: tuple[float, ...]
    fill: Literal["noise", "black"]
    space: Literal["photograph", "view"]
    flaws: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.fractions) < 2 or list(self.fractions) != sorted(set(self.fractions)):
            raise ValueError(f"fractions must be two or more and rise, got {self.fractions}")
        if not 0 <= self.fractions[0] < self.fractions[-1] <= 1:
            raise ValueError(f"fractions must lie in [0, 1], got {self.fractions}")


def shuffled(items: Int[Tensor, " item"], cells: int, seed: int) -> Int[Tensor, "item cell"]:
    """An order of the cells for each item, drawn by the seed and the item's number alone.

    Equal values come in this order. One order for all items would be one draw, however many items
    there are: a constant map's area would be as uncertain at 500 pictures as at one.
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
    """Cells from the highest value to the lowest; equal ones as they come in `ties` (by default the
    earlier cell first)."""
    if ties is None:
        return values.argsort(dim=-1, descending=True, stable=True)
    mixed = values.gather(1, ties).argsort(dim=-1, descending=True, stable=True)
    return ties.gather(1, mixed)


def shown(
    order: Int[Tensor, "item cell"], fraction: float, direction: Direction
) -> Bool[Tensor, "item cell"]:
    """Which cells still show the picture once `fraction` of them, in `order`, were dealt with."""
    dealt = places(order) < round(fraction * order.shape[1])
    return dealt if direction == "insertion" else ~dealt


def places(order: Int[Tensor, "item cell"]) -> Int[Tensor, "item cell"]:
    """Where each cell stands in the order, from 0."""
    count = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, count)


def area(
    values: Float[Tensor, "*item point"], fractions: Sequence[float]
) -> Float[Tensor, "*item"]:
    """Trapezoid rule over the fractions, divided by their span: the mean height of the curve."""
    at = torch.tensor(fractions, dtype=values.dtype, device=values.device)
    return torch.trapezoid(values, at, dim=-1) / (at[-1] - at[0])


def noise(shape: Sequence[int], seed: int) -> Float[Tensor, "*shape"]:
    """Uniform numbers in [0, 1) by a seed of their own: free of batches and of order."""
    return torch.rand(tuple(shape), generator=torch.Generator().manual_seed(seed))


def curves(
    score: Callable[[Float[Tensor, "variant 3 height width"]], Float[Tensor, "variant kind"]],
    picture: Callable[[Bool[Tensor, "variant cell"]], Float[Tensor, "variant 3 height width"]],
    orders: Int[Tensor, "method cell"],
    protocol: Protocol,
    *,
    batch_size: int = 128,
) -> Float[Tensor, "method point kind"]:
    """The curves of one picture, one for each ranking of its cells.

    Args:
        score: of a batch of pictures, any number of kinds each (a cosine, a hit, ...).
        picture: what the model is shown where these cells show the picture and the others do not.

    Each distinct picture is scored once: rankings that agree share their passes, and all of them
    share the points where everything or nothing is shown.
    """
    cells = torch.stack([shown(orders, f, protocol.direction) for f in protocol.fractions], dim=1)
    rows = cells.flatten(0, 1)
    place: dict[bytes, int] = {}
    source = [place.setdefault(row.numpy().tobytes(), len(place)) for row in rows]
    first = torch.tensor([source.index(n) for n in range(len(place))])
    found = [score(picture(part)).float().cpu() for part in rows[first].split(batch_size)]
    return torch.cat(found)[torch.tensor(source)].unflatten(0, (orders.shape[0], -1))
