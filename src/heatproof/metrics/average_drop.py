"""Drop and increase: the score of the image as the map weighs it."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from heatproof.metrics.base import Metric, MetricCard, Need, Trial, min_max
from heatproof.metrics.masked_scores import Fill, masked_scores, needs_of
from heatproof.metrics.registry import register

_SOURCE = (
    "Chattopadhay et al. (Grad-CAM++), WACV 2018, arXiv 1710.11063; Wang et al. (M2IB), "
    "NeurIPS 2023, arXiv 2312.17174, authors' eval.py"
)
_IMPUTER = "zero: the map multiplies the preprocessed pixels, as in the authors' code; others by "
_UNDEFINED = "the map is constant: it weighs nothing"
_DIFFERS = (
    "The authors report percents, 100 times this. pytorch-grad-cam's CamMultImageConfidenceChange "
    "is the change itself, signed, neither cut off at 0 nor counted."
)


@dataclass(frozen=True)
class _WeighedImage(Metric):
    """fill: what stands where the map, scaled from 0 to 1 and enlarged bilinearly, is low."""

    fill: Fill = "zero"

    @property
    def needs(self) -> tuple[Need, ...]:
        return needs_of(self.fill)

    def both(self, trial: Trial) -> tuple[Float[Tensor, " item"], Float[Tensor, " item"]]:
        """Return the scores of the whole images and of the weighed ones, NaN where undefined."""
        maps = trial.maps.to(trial.place)
        # A constant map has no scale: it would weigh by 0 / 0.
        constant = maps.amax((1, 2)) == maps.amin((1, 2))
        weights = min_max(maps)
        size = (trial.pixels.shape[2], trial.pixels.shape[3])

        def masks(
            rows: slice, within: Int[Tensor, " variant"], point: Int[Tensor, " variant"]
        ) -> Float[Tensor, "variant 1 height width"]:
            large = F.interpolate(weights[rows, None], size, mode="bilinear", align_corners=False)
            # The first of the two points is the whole image: weights of 1.
            return large[within].masked_fill((point == 0)[:, None, None, None], 1)

        whole, weighed = masked_scores(trial, self.fill, 2, masks).unbind(1)
        return whole, weighed.masked_fill(trial.broken | constant.cpu(), torch.nan)


@register
@dataclass(frozen=True)
class Drop(_WeighedImage):
    """per: of the whole image's `score` (Grad-CAM++), or `nothing`: the drop itself (M2IB)."""

    per: Literal["score", "nothing"] = "nothing"

    card: ClassVar[MetricCard] = MetricCard(
        name="drop",
        summary="how much does the score fall when the image is weighed with the map?",
        formula="max(0, s(x) - s(x E)), E: the map scaled from 0 to 1",
        better="lower",
        needs=("score",),
        source=_SOURCE,
        chance="a map that is high nearly everywhere gets 0: it rewards covering the image",
        bounds=(0.0, torch.inf),
        undefined=_UNDEFINED,
        invariant=("scale", "shift"),
        endpoints="the whole image",
        imputer=f"{_IMPUTER}`fill`",
        space="cosine in M2IB, softmax probability in Grad-CAM++",
        variants=("per=score: divided by s(x), as in Grad-CAM++; NaN where s(x) is not positive",),
        differs=_DIFFERS,
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        whole, weighed = self.both(trial)
        drop = (whole - weighed).clamp(min=0)
        # A share of a score that is not positive has no meaning.
        return drop if self.per == "nothing" else drop / whole.masked_fill(whole <= 0, torch.nan)


@register
@dataclass(frozen=True)
class Increase(_WeighedImage):
    """How often the weighed image scores more."""

    card: ClassVar[MetricCard] = MetricCard(
        name="increase",
        summary="does the score rise when the image is weighed with the map?",
        formula="1 where s(x E) > s(x), else 0; E: the map scaled from 0 to 1",
        better="higher",
        needs=("score",),
        source=_SOURCE,
        chance="how often a random map raises the score",
        bounds=(0.0, 1.0),
        undefined=_UNDEFINED,
        invariant=("scale", "shift"),
        endpoints="the whole image",
        imputer=f"{_IMPUTER}`fill`",
        space="any: only the sign of the change counts",
        differs=_DIFFERS,
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        whole, weighed = self.both(trial)
        return (weighed > whole).double().masked_fill(weighed.isnan(), torch.nan)
