"""Score images as cells are removed or shown in the map's order: deletion, insertion and others.

Cells are removed (or shown, starting from nothing) by falling or rising heat. Equal values come in
an order that is drawn for each item (see `ranking.shuffled`), so that a constant map is a
random one, no corner of the image is favoured, and the mean over items is the mean over orders.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from heatproof.errors import InputError
from heatproof.metrics.base import Curve, Need, Trial
from heatproof.metrics.masked_scores import Imputer, Of, masked_scores, needs_of
from heatproof.metrics.ranking import places, ranked, shuffled, stretched

Direction = Literal["deletion", "insertion"]
First = Literal["most", "least"]
Unit = Literal["patches", "pixels"]
TIES = (
    "cells of equal heat come in an order that is drawn for each item: a constant map is a random "
    "one, and its mean over items is the mean over orders"
)


@dataclass(frozen=True)
class PerturbationCurve(Curve):
    """Abstract: a curve of scores over the share of cells that were removed or shown.

    unit: `patches`, whole ones; or `pixels` of the map enlarged bilinearly to the model's view.
    of: the `score` of the item's prompt, or the `accuracy`: whether it beats all other prompts.
    """

    imputer: Imputer = "mean"
    unit: Unit = "patches"
    of: Of = "score"

    direction: ClassVar[Direction] = "deletion"
    first: ClassVar[First] = "most"

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the imputer and the kind of score need."""
        return needs_of(self.imputer, self.of)

    @abstractmethod
    def shares(self) -> tuple[float, ...]:
        """Return the shares of the cells that are removed or shown at the curve's points."""

    def fractions(self, trial: Trial) -> Float[Tensor, " point"]:
        """Return `shares` as a tensor."""
        del trial
        return torch.tensor(self.shares(), dtype=torch.float64)

    def curves(self, trial: Trial) -> Float[Tensor, "item point"]:
        """Return the scores at every share, in the metric's own order."""
        return self.heights(trial, self.first)

    def heights(self, trial: Trial, first: First) -> Float[Tensor, "item point"]:
        """Return the scores at every share, NaN where the map holds a value that is no number."""
        if self.imputer == "tokens" and self.unit == "pixels":
            raise InputError("tokens are whole patches; with imputer=tokens try unit=patches")
        masks = _PerturbationMasks(trial, self.shares(), self.direction, first, self.unit)
        scores = masked_scores(trial, self.imputer, len(self.shares()), masks, self.of)
        return scores.masked_fill(trial.broken[:, None], torch.nan)


@dataclass(frozen=True)
class EvenSteps(PerturbationCurve):
    """steps: how many equal parts of the image are dealt with, one after the other."""

    steps: int = 20

    def shares(self) -> tuple[float, ...]:
        """Return the shares from nothing to everything.

        Raises:
            InputError: there is no step.
        """
        if self.steps < 1:
            raise InputError(f"got steps={self.steps}, expected 1 or more")
        return tuple(n / self.steps for n in range(self.steps + 1))


class _PerturbationMasks:
    """Compute masks of what is still shown at each share."""

    def __init__(
        self,
        trial: Trial,
        shares: tuple[float, ...],
        direction: Direction,
        first: First,
        unit: Unit,
    ) -> None:
        self.unit, self.inserts = unit, direction == "insertion"
        self.size = (trial.pixels.shape[2], trial.pixels.shape[3])
        device = trial.place
        self.maps = trial.maps.to(device) * (1 if first == "most" else -1)
        self.items, self.seed = trial.items.cpu(), trial.seed
        cells = self.size[0] * self.size[1] if unit == "pixels" else self.maps[0].numel()
        # Rounded per point, not accumulated: steps that do not divide the cells stay even.
        self.counts = torch.tensor([round(share * cells) for share in shares], device=device)
        self.places = None if unit == "pixels" else self._places(self.maps.flatten(1), slice(None))

    def _places(self, values: Float[Tensor, "item cell"], rows: slice) -> Int[Tensor, "item cell"]:
        ties = shuffled(self.items[rows], values.shape[1], self.seed).to(values.device)
        return places(ranked(values, ties)).to(torch.int32)

    def __call__(
        self, rows: slice, within: Int[Tensor, " variant"], point: Int[Tensor, " variant"]
    ) -> Shaped[Tensor, "variant ..."]:
        if self.places is not None:
            place = self.places[rows]
        else:
            place = self._places(stretched(self.maps[rows], self.size).flatten(1), rows)
        shown = self._shown(place[within], self.counts[point])
        return shown if self.unit == "patches" else shown.unflatten(1, (1, *self.size))

    def _shown(
        self, place: Int[Tensor, "variant cell"], count: Int[Tensor, " variant"]
    ) -> Bool[Tensor, "variant cell"]:
        reached = place < count[:, None]
        return reached if self.inserts else ~reached
