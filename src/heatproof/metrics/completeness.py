"""Does the map add up to what it explains? Completeness and attribution error."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from heatproof.metrics.base import Metric, MetricCard, Need, Trial
from heatproof.metrics.masked_scores import Imputer, masked_scores, needs_of
from heatproof.metrics.registry import register

Baseline = Literal[
    "promise", "nothing", "zero", "mean", "black", "blur", "noise", "inpainting", "other", "tokens"
]
_IMPUTER = "the baseline image is all imputed; with baseline=promise the method's own"
_CHANCE = "a map of zeros: "
_VARIANTS = (
    "baseline=nothing: |s(x) - sum m|, LibraGrad's completeness error (arXiv 2411.16760)",
    "baseline=zero, mean, black, ...: |s(x) - s(x') - sum m|, x' the image all imputed so",
)


@dataclass(frozen=True)
class _SumOfMap(Metric):
    """baseline: the `promise` of the method (`Trial.total`), `nothing` (the whole score), or the
    score of the image with everything imputed so."""

    baseline: Baseline = "promise"

    @property
    def needs(self) -> tuple[Need, ...]:
        if self.baseline == "promise":
            return ("total",)
        return needs_of("zero" if self.baseline == "nothing" else self.baseline)

    def both(self, trial: Trial) -> tuple[Float[Tensor, " item"], Float[Tensor, " item"]]:
        """Return what the maps add up to, and what they should."""
        sums = trial.maps.cpu().double().sum((1, 2)).masked_fill(trial.broken, torch.nan)
        if self.baseline == "promise":
            assert trial.total is not None
            return sums, trial.total.cpu().double()
        if self.baseline == "nothing":
            return sums, _ends(trial, "zero")[0]
        whole, nothing = _ends(trial, self.baseline)
        return sums, whole - nothing


def _ends(trial: Trial, imputer: Imputer) -> tuple[Tensor, Tensor]:
    """Return the scores of the whole images and of all imputed ones."""
    cells = trial.maps[0].numel()

    def masks(
        rows: slice, within: Int[Tensor, " variant"], point: Int[Tensor, " variant"]
    ) -> Bool[Tensor, "variant cell"]:
        del rows, within
        # Two points of a curve: nothing is imputed, or everything.
        return (point == 0)[:, None].expand(-1, cells).to(trial.place)

    whole, nothing = masked_scores(trial, imputer, 2, masks).unbind(1)
    return whole, nothing


@register
@dataclass(frozen=True)
class Completeness(_SumOfMap):
    """The gap, in units of the score."""

    card: ClassVar[MetricCard] = MetricCard(
        name="completeness",
        summary="by how much does the map's sum miss the score's change from the baseline?",
        formula="|sum m - D|, D the score's change from the baseline",
        better="lower",
        needs=("total",),
        source="Sundararajan et al., ICML 2017, arXiv 1703.01365",
        bounds=(0.0, torch.inf),
        chance=f"{_CHANCE}|D|",
        undefined="the method promises no sum and baseline=promise: the trial's total is NaN",
        endpoints="the whole image, and the baseline",
        imputer=_IMPUTER,
        space="the score that the map explains, not one derived from it",
        variants=_VARIANTS,
        differs="Captum's convergence delta is sum m - D, signed.",
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        sums, change = self.both(trial)
        return (sums - change).abs()


@register
@dataclass(frozen=True)
class AttributionError(_SumOfMap):
    """The gap, in units of what is attributed."""

    card: ClassVar[MetricCard] = MetricCard(
        name="attribution-error",
        summary="what share of the score's change does the map's sum miss? (1: all, as zeros do)",
        formula="|sum m - D| / max(|sum m|, |D|), D the score's change from the baseline",
        better="lower",
        needs=("total",),
        source="attribution result against attribution target, arXiv 2605.22417; the normalisation "
        "is ours",
        bounds=(0.0, 2.0),
        chance=f"{_CHANCE}1; a sum of the wrong sign gets more",
        undefined="sum and change are both 0, or the trial's total is NaN",
        endpoints="the whole image, and the baseline",
        imputer=_IMPUTER,
        space="the score that the map explains, not one derived from it",
        variants=_VARIANTS,
        differs="The audit's check of the same name divides by the mean |D| of all images; here "
        "each item has its own unit, so that a value does not depend on the others.",
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        sums, change = self.both(trial)
        # Where sum and change are both zero, their share is undefined.
        larger = torch.maximum(sums.abs(), change.abs())
        return (sums - change).abs() / larger.masked_fill(larger == 0, torch.nan)
