"""Infidelity (Yeh et al., NeurIPS 2019, arXiv 1901.09392): does the map predict score changes?"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from heatproof.errors import InputError
from heatproof.metrics.base import Metric, MetricCard, Need, Trial
from heatproof.metrics.masked_scores import Imputer, masked_scores, needs_of
from heatproof.metrics.registry import register


@register
@dataclass(frozen=True)
class Infidelity(Metric):
    """samples: how many sets of patches are hidden, the same for all items, by the trial's seed.
    rate: the chance of a patch to be hidden.
    unit: `fitted`, the map times the factor, not negative, that predicts best; or the `map` as is.
    """

    imputer: Imputer = "zero"
    samples: int = 50
    rate: float = 0.2
    unit: Literal["fitted", "map"] = "fitted"

    card: ClassVar[MetricCard] = MetricCard(
        name="infidelity",
        summary="how far is what the map predicts from how the score changes as patches go?",
        formula="mean over random sets I of (b sum over I of m - (s(x) - s(x without I)))^2; "
        "b = max(0, E[uv] / E[u^2]), u the sum of m over I and v the change of the score",
        better="lower",
        needs=("score",),
        source="Yeh et al., NeurIPS 2019, arXiv 1901.09392",
        bounds=(0.0, torch.inf),
        chance="a map of zeros: the mean square of the score's change",
        invariant=("scale",),
        endpoints="the whole image",
        imputer="zero; all others by `imputer`",
        steps="50 sets, each patch hidden with probability 0.2",
        space="what the trial scores with; values are in its square",
        variants=(
            "as published: unit=map, for maps that promise to be in the score's units",
            "the authors weigh by pixel differences; here a hidden patch takes all its heat along, "
            "which is what a map of contributions claims",
        ),
        differs="Captum's normalize=True is the same b without max(0, .), by which a map of the "
        "wrong sign is as good as the right one; its default is no factor at all. Quantus hides "
        "squares of 4 pixels, one after the other.",
    )

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the imputer and the kind of score need."""
        return needs_of(self.imputer)

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        if self.samples < 1 or not 0 < self.rate < 1:
            raise InputError(
                f"got samples={self.samples}, rate={self.rate:g} for infidelity, expected 1 or "
                "more samples, and a rate between 0 and 1"
            )
        maps = trial.maps.cpu().double().flatten(1)
        hidden = self._hidden(maps.shape[1], trial.seed)
        here = hidden.to(trial.place)

        def masks(
            rows: slice, within: Int[Tensor, " variant"], point: Int[Tensor, " variant"]
        ) -> Bool[Tensor, "variant cell"]:
            del rows, within
            return ~here[point]

        scores = masked_scores(trial, self.imputer, len(hidden), masks)
        predicted, change = maps @ hidden[1:].double().T, scores[:, :1] - scores[:, 1:]
        if self.unit == "fitted":
            square = predicted.square().mean(1, keepdim=True)
            best = (predicted * change).mean(1, keepdim=True) / square.masked_fill(square == 0, 1)
            # A negative factor would make a map of the wrong sign as good as the right one.
            predicted = predicted * best.clamp(min=0)
        return (predicted - change).square().mean(1).masked_fill(trial.broken, torch.nan)

    def _hidden(self, cells: int, seed: int) -> Bool[Tensor, "point cell"]:
        """Return the empty set, and then the random ones."""
        drawn = torch.rand(self.samples, cells, generator=torch.Generator().manual_seed(seed))
        return torch.cat([torch.zeros(1, cells, dtype=torch.bool), drawn < self.rate])
