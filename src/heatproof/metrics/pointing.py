"""Pointing games: does the heat lie on the object that is asked for?"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.errors import InputError
from heatproof.evaluation import localisation
from heatproof.metrics.base import Metric, MetricCard, Trial
from heatproof.metrics.registry import register

_GRID = (
    "Maps stay on the patch grid and masks come down to it by area, where libraries enlarge the "
    "map: no interpolation enters, and a patch that the mask covers in part counts in part."
)


@register
@dataclass(frozen=True)
class Pointing(Metric):
    """The pointing game, at its expected value."""

    card: ClassVar[MetricCard] = MetricCard(
        name="pointing",
        summary="does the hottest patch lie on the object?",
        formula="mean of c over the patches where the map is largest; c: share of the patch that "
        "the mask covers",
        better="higher",
        needs=("mask",),
        source="Zhang et al., IJCV 2018, arXiv 1608.00507",
        bounds=(0.0, 1.0),
        chance="the mask's share of the image",
        undefined="no part of the object is to be seen",
        invariant=("scale", "shift"),
        variants=("the authors forgive 15 pixels around the mask; here nothing is forgiven",),
        differs=f"Quantus' PointingGame gives 1 where any of the largest pixels is hit, which a "
        f"constant map always gets; here ties count at their expected value. {_GRID}",
        ties="at their expected value: the mean over the patches that are hottest",
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        maps, mask = _together(trial.maps, trial.mask)
        return localisation.pointing(maps, mask)[:, 0]


@register
@dataclass(frozen=True)
class EnergyPointing(Metric):
    """The energy-based pointing game."""

    card: ClassVar[MetricCard] = MetricCard(
        name="energy-pointing",
        summary="what share of the positive heat lies on the object?",
        formula="sum of m+ c / sum of m+, m+ the map's positive part",
        better="higher",
        needs=("mask",),
        source="Wang et al., CVPRW 2020, arXiv 1910.01279",
        bounds=(0.0, 1.0),
        chance="the mask's share of the image",
        undefined="no part of the object is to be seen, or no heat is positive",
        invariant=("scale",),
        variants=(
            "maps that are scaled to 0..1 first get another value: what was negative then counts",
        ),
        differs=f"Quantus' RelevanceMassAccuracy sums all heat, negative included, unless told to "
        f"take absolute values. {_GRID}",
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        maps, mask = _together(trial.maps, trial.mask)
        return localisation.energy(maps, mask)[:, 0]


@register
@dataclass(frozen=True)
class MultiObjectPointing(Metric):
    """Among the objects of an image, the named ones.

    of: the named objects' share of the `heat`, or whether the `hottest` object is a named one.
    count: only items that show so many objects have a value; None: all of them.
    """

    of: Literal["heat", "hottest"] = "heat"
    count: int | None = None

    card: ClassVar[MetricCard] = MetricCard(
        name="multi-object-pointing",
        summary="of all objects in the image, is it the named one that is hot?",
        formula="h(o) = sum of m+ c_o / sum of c_o, the mean positive heat of object o; the value "
        "is the sum of h over named objects / the sum over all",
        better="higher",
        needs=("objects", "named"),
        source="Baniecki et al. (FIxLIP), NeurIPS 2025, arXiv 2508.05430, one to four objects; "
        "first-order form and areas ours",
        bounds=(0.0, 1.0),
        chance="named objects / objects: 1/2, 1/3, 1/4 for one of two, three, four",
        undefined="no named object is to be seen, no object is hot, or the image shows another "
        "number of objects than `count`",
        invariant=("scale",),
        variants=(
            "of=hottest: 1 where the object of the largest mean heat is a named one, signed, ties "
            "at their expected value (`localisation.choice`)",
            "the authors' scenes are 2 x 2 collages, objects of equal area; here any masks, so "
            "heat is averaged over each object's area",
            "their score takes interactions of words and patches; a map has first order alone",
        ),
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        if self.count is not None and self.count < 1:
            raise InputError(f"got count={self.count}, expected 1 or more objects, or None")
        assert trial.named is not None
        maps, objects = _together(trial.maps, trial.objects)
        objects, named = objects[:, 0], trial.named.cpu().bool()
        seen = (objects.sum((2, 3)) > 0).sum(1)
        values = self._shares(maps[:, 0], objects, named).masked_fill(trial.broken, torch.nan)
        if self.count is not None:
            values = values.masked_fill(seen != self.count, torch.nan)
        return values

    def _shares(self, maps: Tensor, objects: Tensor, named: Tensor) -> Float[Tensor, " item"]:
        if self.of == "hottest":
            return localisation.choice(maps[:, None], objects, named[:, None])[:, 0]
        area = objects.sum((2, 3)).double()
        inside = torch.einsum("irc,iorc->io", maps.clamp(min=0).double(), objects.double())
        heat = inside / area.masked_fill(area == 0, 1)
        total = heat.sum(1)
        share = (heat * named).sum(1) / total.masked_fill(total == 0, torch.nan)
        absent = ~(named & (area > 0)).any(1)
        return share.masked_fill(absent, torch.nan).float()


def _together(maps: Tensor, truth: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return maps and masks on the CPU, with an axis for the one prompt of each item."""
    assert truth is not None
    return maps.cpu().float()[:, None], truth.cpu().float()[:, None]
