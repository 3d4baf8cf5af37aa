"""RISE (Petsiuk et al., BMVC 2018, arXiv 1806.07421): the mean of random masks, by their scores."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import MethodCard, ReadPass
from heatproof.methods.perturbing import (
    BATCH,
    Coalitions,
    Perturbing,
    all_coalitions,
    fill_of,
    image_scores,
    on_patches,
    placed,
    players,
)
from heatproof.methods.registry import register
from heatproof.registry import number


@register
@dataclass(frozen=True)
class RISE(Perturbing):
    """E_i = 1 / (N p) sum over N masks of S(x * M) M_i: the expected score where i is seen.

    masks: N. probability: p, of a cell (a token, where tokens are removed) to be seen.
    cells: a mask is a grid of cells x cells, enlarged bilinearly and shifted by less than a cell;
        beyond the middles of the outer cells it is mirrored.
    Words are kept one by one; where there are no more coalitions of them than masks, the
    expectation is exact.
    """

    masks: int = number(6000, least=1)
    cells: int = number(8, least=1)
    probability: float = number(0.1, above=0, most=1)

    card: ClassVar[MethodCard] = MethodCard(
        name="rise",
        summary="random masks, weighed by the scores of the images seen through them",
        source="Petsiuk et al., BMVC 2018, arXiv 1806.07421; authors' Saliency.ipynb",
        reads="scores of randomly masked inputs",
        changes="the input",
        values="signed as the score is; the expected score where the token is visible; no promised "
        "sum",
        signs=("low score when seen", "high score when seen"),
        cost="6,000 forward passes per image by default (`masks`); any number of prompts",
        notes="Defaults of Saliency.ipynb: 6,000 masks, 8 cells, p = 0.1, fill zero. "
        "Masks are enlarged as their skimage call does (order=1, mode='reflect'). "
        "Evaluation.ipynb has 5,000 masks and 10 cells; Grad-ECLIP's comparison 2,000, 8 and "
        "p = 0.5. The authors average class probabilities, here it is the score asked for.",
    )

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        # Words and removed tokens cannot be blended: they are kept or dropped.
        if not self.paints(read):
            return self._by_tokens(read)
        assert read.batch.pixels is not None
        sums: list[Tensor] = [torch.zeros(())] * len(read.batch.pixels)
        for mask in self._pixel_masks(read):
            seen = on_patches(read, mask[:, 0])
            for item in range(len(read.batch.pixels)):
                scores = image_scores(read, item, [mask], fill_of(read, item, self.fill))
                # Summed as masks come: all of them would not fit into memory.
                sums[item] = sums[item] + seen.T @ scores
        return placed(read, [total / (self.masks * self.probability) for total in sums])

    def _pixel_masks(self, read: ReadPass) -> Iterator[Float[Tensor, "chunk 1 height width"]]:
        assert read.batch.pixels is not None
        size = read.batch.pixels.shape[-2:]
        # Rounded up, so that the shifted grid always covers the image.
        cell = [-(-length // self.cells) for length in size]
        enlarging = [_enlarging(self.cells, (self.cells + 1) * length) for length in cell]
        # The same masks for every image: a map does not depend on what else is explained.
        generator = torch.Generator().manual_seed(read.seed)
        for start in range(0, self.masks, BATCH):
            count = min(BATCH, self.masks - start)
            grid = torch.rand(count, 1, self.cells, self.cells, generator=generator)
            shift = torch.rand(count, 2, generator=generator)
            seen = (grid < self.probability).double()
            corner = (shift * torch.tensor(cell)).long()
            rows, cols = (
                torch.stack([enlarge[at : at + length] for at in corners.tolist()])
                for enlarge, length, corners in zip(enlarging, size, corner.T, strict=True)
            )
            yield (rows @ seen[:, 0] @ cols.transpose(1, 2)).unsqueeze(1)

    def _by_tokens(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        drawn = [self._coalitions(len(p), read.seed) for p in players(read)]
        scores = self.scores_of(read, [keep for keep, _ in drawn])
        return placed(
            read,
            [
                (keep * weight[:, None]).T @ own / self.probability
                for (keep, weight), own in zip(drawn, scores, strict=True)
            ],
        )

    def _coalitions(self, count: int, seed: int) -> tuple[Coalitions, Float[Tensor, " coalition"]]:
        """Return coalitions with their weights, which add up to one."""
        # All coalitions are no more than the masks asked for: the expectation is exact.
        if count <= math.log2(self.masks):
            keep = all_coalitions(count)
            sizes, p = keep.double().sum(1), self.probability
            return keep, p**sizes * (1 - p) ** (count - sizes)
        generator = torch.Generator().manual_seed(seed)
        keep = torch.rand(self.masks, count, generator=generator) < self.probability
        return keep, torch.full((self.masks,), 1 / self.masks, dtype=torch.float64)


def _enlarging(cells: int, length: int) -> Float[Tensor, "pixel cell"]:
    """Return linear interpolation between the middles of cells as a matrix, mirrored beyond."""
    # torch's own interpolation is constant beyond the middles of the outer cells.
    at = (torch.arange(length, dtype=torch.float64) + 0.5) * cells / length - 0.5
    last = cells - 1
    at = last - (last - at.abs()).abs()  # mirrored at both ends
    tent = 1 - (at[:, None] - torch.arange(cells)).abs()
    return tent.clamp(min=0) if cells > 1 else torch.ones(length, 1, dtype=torch.float64)
