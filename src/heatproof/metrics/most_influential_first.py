"""Most and least influential first, and the gap between them (arXiv 2401.06654)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from heatproof.metrics.base import MetricCard, Trial
from heatproof.metrics.perturbation_curves import TIES, EvenSteps
from heatproof.metrics.registry import register

_SOURCE = "Bluecher et al., TMLR 2024, arXiv 2401.06654; Samek et al., TNNLS 2017, arXiv 1509.06321"
_SPACE = "what the trial scores with"
_DIFFERS = (
    "Quantus' PixelFlipping and RegionPerturbation need square patches and fill with `black` by "
    "default, which is the smallest number of the image for all channels, as their `mean` is one "
    "number for all (the mean of the image as it is by then): no channel's own black or mean. "
    "PixelFlipping's curve begins after the first step, without the whole image; "
    "RegionPerturbation's are drops of the score, without the first one, which is 0. Their area "
    "under the curve counts steps and is not divided by their number; the metric that Quantus "
    "calls AUC is another: the area under the ROC of the map against the mask. pytorch-grad-cam's "
    "ROADCombined is the mean of (LIF - MIF) / 2 over 10, 20, ... 90 %, without a trapezoid."
)


@register
@dataclass(frozen=True)
class MIF(EvenSteps):
    """The most influential first."""

    card: ClassVar[MetricCard] = MetricCard(
        name="mif",
        summary="most influential first: does the score fall soon?",
        formula="mean height of s(f), the score without the share f of the most heated cells",
        better="lower",
        needs=("score",),
        source=_SOURCE,
        chance="a random map's, which depends on the imputer: prefer `srg`",
        invariant=("scale", "shift"),
        endpoints="the whole image; all of it imputed",
        imputer="mean; all others by `imputer`",
        steps="20, both ends scored",
        space=_SPACE,
        ties=TIES,
        variants=("ROAD (arXiv 2202.00449): imputer=inpainting, unit=pixels",),
        differs=_DIFFERS,
    )


@register
@dataclass(frozen=True)
class LIF(EvenSteps):
    """The least influential first."""

    first = "least"
    card: ClassVar[MetricCard] = replace(
        MIF.card,
        name="lif",
        summary="least influential first: does the score stay up?",
        formula="mean height of s(f), the score without the share f of the least heated cells",
        better="higher",
    )


@register
@dataclass(frozen=True)
class SRG(EvenSteps):
    """Symmetric relevance gain."""

    card: ClassVar[MetricCard] = MetricCard(
        name="srg",
        summary="symmetric relevance gain: the gap between removing the least and the most first",
        formula="AUC_LIF - AUC_MIF; its curve is the difference of the two scores",
        better="higher",
        needs=("score",),
        source=_SOURCE,
        chance="0 on average; what the imputer alone does to the score cancels out",
        invariant=("scale", "shift"),
        endpoints="0 at both ends",
        imputer="mean; all others by `imputer`",
        steps="20, both ends scored",
        space=_SPACE,
        ties=TIES,
        variants=(
            "ROADCombined: imputer=inpainting, unit=pixels, steps=10; it is 10/9 of half of this "
            "gap, for a trapezoid gives the two ends, where the gap is 0, a tenth of the weight",
        ),
        differs=_DIFFERS,
    )

    def curves(self, trial: Trial) -> Float[Tensor, "item point"]:
        """Return the difference of the two curves."""
        return self.heights(trial, "least") - self.heights(trial, "most")
