"""Sensitivity-max (Yeh et al., NeurIPS 2019, arXiv 1901.09392): is the map stable?"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.errors import InputError
from heatproof.metrics.base import Metric, MetricCard, Trial
from heatproof.metrics.registry import register


@register
@dataclass(frozen=True)
class SensitivityMax(Metric):
    """radius: the largest change of a preprocessed pixel. samples: how many changes are tried, the
    same for all items, by the trial's seed."""

    radius: float = 0.02
    samples: int = 10

    card: ClassVar[MetricCard] = MetricCard(
        name="sensitivity-max",
        summary="how much can the map change under a change of the image that nobody sees?",
        formula="max over d, uniform within the radius, of ||m(x + d) - m(x)|| / ||m(x)||",
        better="lower",
        needs=("explain",),
        source="Yeh et al., NeurIPS 2019, arXiv 1901.09392",
        bounds=(0.0, torch.inf),
        chance="1.4 for noise drawn anew; 0 for a map that does not look at the image, so that a "
        "low value alone says nothing",
        undefined="the map is zero everywhere",
        invariant=("scale", "sign"),
        steps="10 changes",
        variants=("Quantus: 200 changes, uniform from 0.2 down, in its own units",),
        differs="Captum's sensitivity_max at its defaults is the same, but that each image has "
        "its own draws and a map of norm 0 is divided by a small number; here by none (NaN).",
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        if self.samples < 1 or not self.radius > 0:
            raise InputError(
                f"got samples={self.samples}, radius={self.radius:g} for sensitivity-max, expected "
                "1 or more samples and a radius above 0"
            )
        own = trial.flat_maps
        length = own.norm(dim=1)
        worst = torch.zeros_like(length)
        generator = torch.Generator().manual_seed(trial.seed)
        for _ in range(self.samples):
            drawn = torch.rand(trial.pixels.shape[1:], generator=generator)
            change = partial(_moved, by=(2 * drawn - 1) * self.radius)
            worst = torch.maximum(worst, (trial.maps_again(change) - own).norm(dim=1))
        return worst / length.masked_fill(length == 0, torch.nan)


def _moved(pixels: Tensor, by: Tensor) -> Tensor:
    return pixels + by.to(pixels)
