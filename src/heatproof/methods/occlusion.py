"""Occlusion (Zeiler & Fergus, ECCV 2014, arXiv 1311.2901): what the score loses under a window."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.errors import InputError
from heatproof.methods.base import CONTRIBUTES, MethodCard, ReadPass
from heatproof.methods.perturbing import Coalitions, Perturbing, placed, players
from heatproof.methods.registry import register
from heatproof.registry import number


@register
@dataclass(frozen=True)
class Occlusion(Perturbing):
    """E_i = mean, over the windows that cover i, of S(x) - S(x without the window).

    window, stride: in patches on the image side, in tokens on the text side.
    """

    window: int = number(1, least=1)
    stride: int = number(1, least=1)

    card: ClassVar[MethodCard] = MethodCard(
        name="occlusion",
        summary="how much the score falls when a window of patches, or of words, is removed",
        source="Zeiler & Fergus, ECCV 2014, arXiv 1311.2901; captum's Occlusion",
        reads="scores of inputs with a window removed",
        changes="the input",
        values="signed; no promised sum",
        signs=CONTRIBUTES,
        cost="1 forward pass per window and image, by default one per patch; any number of prompts",
        notes="captum's definition: overlapping windows are averaged, the last one is cut off at "
        "the border, its fill is zero of the preprocessed image. It has no default window; here "
        "it is one patch.",
    )

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        dropped = [self._windows(read, len(p)) for p in players(read)]
        scores = self.scores_of(read, [~windows for windows in dropped])
        full = read.scores.detach().cpu().double()
        values: list[Tensor] = []
        for item, windows in enumerate(dropped):
            covers = windows.double().T
            lost = full[item] - scores[item]
            values.append(covers @ lost / covers.sum(1, keepdim=True).clamp(min=1))
        return placed(read, values)

    def _windows(self, read: ReadPass, count: int) -> Coalitions:
        """Return which players each window removes."""
        sizes = read.batch.grid if read.batch.side == "image" else (1, count)
        if not 1 <= self.stride <= self.window:
            raise InputError(
                f"got stride={self.stride} for windows of {self.window}, expected 1 to "
                f"{self.window}: every token must come under a window"
            )
        if read.batch.side == "image" and self.window > min(sizes):
            raise InputError(f"got window={self.window}, expected 1 to {min(sizes)} patches")
        rows, cols = (_shifts(size, self.window, self.stride) for size in sizes)
        return (rows[:, None, :, None] & cols[None, :, None, :]).flatten(2).flatten(0, 1)


def _shifts(size: int, window: int, stride: int) -> Coalitions:
    """Return the positions that each shift of the window covers along one axis."""
    window = min(window, size)
    count = -(-(size - window) // stride) + 1 if size else 0
    starts = torch.arange(count)[:, None] * stride
    positions = torch.arange(size)[None, :]
    return (positions >= starts) & (positions < starts + window)
