"""Positive and negative perturbation (Chefer et al., CVPR 2021; LeGrad)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from heatproof.metrics.base import MetricCard
from heatproof.metrics.masked_scores import Imputer, Of
from heatproof.metrics.perturbation_curves import TIES, PerturbationCurve, Unit
from heatproof.metrics.registry import register

_SHARES = tuple(n / 10 for n in range(10))
_SOURCE = (
    "Chefer et al., CVPR 2021, arXiv 2012.09838, authors' pertubation_eval_from_hdf5.py; "
    "Bousselham et al. (LeGrad), arXiv 2404.03214"
)
_SPACE = "whether the item's prompt beats all others (top-1 accuracy); the score by of=score"
_VARIANTS = (
    "of the true or of the predicted class: by the trial's prompts",
    "Chefer et al. start at 10 % removed, LeGrad at 0 %: here at 0 %",
)
_DIFFERS = (
    "The authors' script prints accuracies; the area is the trapezoid rule over 0 to 0.9, not the "
    "mean of the points. Its --neg takes any non-empty string for true, so that a run asked for "
    "positive perturbation is negative unless the code is edited."
)


@dataclass(frozen=True)
class _Perturbation(PerturbationCurve):
    """Pixels become black, ten points up to nine tenths of them."""

    imputer: Imputer = "black"
    unit: Unit = "pixels"
    of: Of = "accuracy"

    def shares(self) -> tuple[float, ...]:
        return _SHARES


@register
@dataclass(frozen=True)
class PositivePerturbation(_Perturbation):
    """The most heated pixels first."""

    card: ClassVar[MetricCard] = MetricCard(
        name="positive-perturbation",
        summary="how long is the model right when the most heated pixels go first?",
        formula="mean height (trapezoid rule over f = 0, 0.1, ..., 0.9) of the accuracy without "
        "the share f of the most heated pixels",
        better="lower",
        needs=("hit", "levels"),
        source=_SOURCE,
        chance="a random map's: the accuracy where random pixels are removed",
        invariant=("scale", "shift"),
        endpoints="the whole image; nine tenths of it black",
        imputer="black (zero before normalisation)",
        steps="10 points",
        space=_SPACE,
        ties=TIES,
        variants=_VARIANTS,
        differs=_DIFFERS,
    )


@register
@dataclass(frozen=True)
class NegativePerturbation(_Perturbation):
    """The least heated pixels first."""

    first = "least"
    card: ClassVar[MetricCard] = replace(
        PositivePerturbation.card,
        name="negative-perturbation",
        summary="how long is the model right when the least heated pixels go first?",
        formula="mean height (trapezoid rule over f = 0, 0.1, ..., 0.9) of the accuracy without "
        "the share f of the least heated pixels",
        better="higher",
    )
