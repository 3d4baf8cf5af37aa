"""How the heat is spread: sparseness and entropy. They say nothing of truth."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.metrics.base import Metric, MetricCard, Trial
from heatproof.metrics.registry import register


@register
@dataclass(frozen=True)
class Sparseness(Metric):
    """Gini index of the absolute heat."""

    card: ClassVar[MetricCard] = MetricCard(
        name="sparseness",
        summary="Gini index: 0 evenly spread, near 1 all of it in one patch",
        formula="sum over k of (2k - n - 1) |m|_(k) / (n sum |m|), |m|_(k) rising",
        better="neither",
        needs=(),
        source="Chalasani et al., ICML 2020, arXiv 1810.06583",
        bounds=(0.0, 1.0),
        chance="0.41 for standard normal heat",
        undefined="the map is zero everywhere",
        invariant=("scale", "sign"),
        variants=("Chalasani et al. hold that higher is better; a wrong patch alone gets most",),
        differs="Quantus' Sparseness adds 1e-7 to every |m|. With normalise=False it falls with "
        "the map's scale (by 1 % at a mean |m| of 1e-5, by a tenth at 1e-6, by half at 1e-7); "
        "its default scales the largest |m| to 1 first.",
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        heat = _absolute(trial).sort(-1).values
        count = heat.shape[1]
        rank = 2 * torch.arange(1, count + 1, dtype=heat.dtype) - count - 1
        return (heat * rank).sum(1) / (count * _positive(heat.sum(1)))


@register
@dataclass(frozen=True)
class Entropy(Metric):
    """Entropy of the absolute heat as a distribution over patches."""

    card: ClassVar[MetricCard] = MetricCard(
        name="entropy",
        summary="entropy of where the heat is: 0 all in one patch, log n evenly spread (nats)",
        formula="- sum of p log p, p = |m| / sum |m|",
        better="neither",
        needs=(),
        source="Bhatt et al., IJCAI 2020, arXiv 2005.00631",
        bounds=(0.0, torch.inf),
        chance="log n - 0.28 for standard normal heat on many patches",
        undefined="the map is zero everywhere",
        invariant=("scale", "sign"),
        variants=("Bhatt et al. hold that lower is better; a wrong patch alone gets least",),
        differs="Quantus' Complexity is the same; of pixels, where a patch counts as many times.",
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        heat = _absolute(trial)
        return torch.special.entr(heat / _positive(heat.sum(1))[:, None]).sum(1)


def _absolute(trial: Trial) -> Float[Tensor, "item cell"]:
    return trial.maps.cpu().double().flatten(1).abs()


def _positive(total: Tensor) -> Tensor:
    """Return the totals, NaN instead of zero and infinity."""
    return total.masked_fill((total == 0) | ~total.isfinite(), torch.nan)
