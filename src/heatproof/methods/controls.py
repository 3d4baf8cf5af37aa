"""Controls: maps that read nothing of the model. What does no better than these shows nothing."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import Factors, MethodCard, ReadPass, ScoreMethod, Side
from heatproof.methods.registry import register
from heatproof.methods.tokens import on_tokens
from heatproof.reading.attention_call import at_least_float32


@dataclass(frozen=True)
class Control(ScoreMethod):
    """Abstract: a map that does not look at the model; its certificate fails."""

    def factors(self, side: Side) -> Factors:
        del side
        replacement = f"{self.card.reads}, in place of anything that the model computes"
        return Factors((), (replacement,), "everything")


@register
@dataclass(frozen=True)
class RandomMap(Control):
    """Independent standard normal values, from the explanation's seed."""

    card: ClassVar[MethodCard] = MethodCard(
        name="random",
        summary="control: seeded noise",
        source="control",
        reads="a random number generator",
        changes="everything: it does not look at the model",
        values="signed; standard normal",
        cost="none beyond the score",
    )

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        return _noise(read)


@register
@dataclass(frozen=True)
class BlurredRandom(Control):
    """The noise of `random` under a Gaussian, an eighth of the grid's side wide.

    Smooth blobs anywhere: what a metric gives for blur alone.
    """

    card: ClassVar[MethodCard] = MethodCard(
        name="blurred-random",
        summary="control: seeded noise, blurred into blobs",
        source="control; that perturbation metrics reward blur: ROAD, arXiv 2202.00449",
        reads="a random number generator",
        changes="everything: it does not look at the model",
        values="signed; a moving average of standard normals",
        cost="none beyond the score",
        sides=("image",),
    )

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        rows, cols = read.batch.grid
        noise = _noise(read).double()
        on_grid = noise[:, :, read.batch.content].unflatten(2, (rows, cols))
        values = torch.zeros_like(noise)
        values[:, :, read.batch.content] = (_smoother(rows) @ on_grid @ _smoother(cols).T).flatten(
            2
        )
        return values


def _noise(read: ReadPass) -> Float[Tensor, "item target token"]:
    """Draw noise for each item: its own, whichever others it is batched with."""
    items, keys = read.last.key.shape[0], read.last.key.shape[2]
    noise: list[Tensor] = []
    # By the item's number in the whole explanation: the batch size changes no map.
    for item in range(read.batch.first, read.batch.first + items):
        # Each item its own: noise shared by all images would be one draw of chance.
        generator = torch.Generator().manual_seed(read.seed + item)
        noise.append(torch.randn(read.targets, keys, generator=generator))
    return torch.stack(noise)


def _smoother(size: int) -> Float[Tensor, "cell cell"]:
    """Return a matrix whose row n averages the cells around n, with weights that add up to 1."""
    at = torch.arange(size, dtype=torch.float64)
    weights = torch.exp(-((at[:, None] - at) ** 2) / (2 * (size / 8) ** 2))
    return weights / weights.sum(1, keepdim=True)


@register
@dataclass(frozen=True)
class Center(Control):
    """A Gaussian at the middle of the grid, a quarter of its side wide."""

    card: ClassVar[MethodCard] = MethodCard(
        name="center",
        summary="control: a bump in the middle",
        source="control",
        reads="the middle of the image",
        changes="everything: it does not look at the model",
        values="between 0 and 1",
        cost="none beyond the score",
        sides=("image",),
    )

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        rows, cols = read.batch.grid
        row, col = (
            torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1) for size in (rows, cols)
        )
        bump = torch.exp(-(row[:, None] ** 2 + col[None, :] ** 2) / (2 * 0.5**2))
        return _for_all_targets(read, bump.expand(read.last.key.shape[0], rows, cols))


@register
@dataclass(frozen=True)
class Edges(Control):
    """Mean length of the brightness gradient in each patch: what a sketch of the image shows."""

    card: ClassVar[MethodCard] = MethodCard(
        name="edges",
        summary="control: where the image has edges",
        source="control of Adebayo et al., NeurIPS 2018, arXiv 1810.03292",
        reads="brightness edges of the image",
        changes="everything: it does not look at the model",
        values="not negative",
        cost="none beyond the score",
        sides=("image",),
    )

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        assert read.batch.pixels is not None
        grey = at_least_float32(read.batch.pixels).mean(1, keepdim=True)
        vertical, horizontal = torch.gradient(grey, dim=(2, 3))
        length = torch.sqrt(vertical**2 + horizontal**2)
        return _for_all_targets(read, F.adaptive_avg_pool2d(length, read.batch.grid)[:, 0])


def _for_all_targets(
    read: ReadPass, maps: Float[Tensor, "item row col"]
) -> Float[Tensor, "item target token"]:
    tokens = on_tokens(read, maps.flatten(1), read.batch.content)
    return tokens.unsqueeze(1).expand(-1, read.targets, -1)
