"""Deletion and insertion (Petsiuk et al., BMVC 2018, arXiv 1806.07421)."""

from dataclasses import dataclass
from typing import ClassVar

from heatproof.metrics.base import MetricCard
from heatproof.metrics.masked_scores import Imputer
from heatproof.metrics.perturbation_curves import TIES, EvenSteps
from heatproof.metrics.registry import register

_SOURCE = "Petsiuk et al., BMVC 2018, arXiv 1806.07421; authors' evaluation.py"
_SPACE = "what the trial scores with (cosine, logit, ...); the authors: softmax probability"
_DIFFERS = (
    "The authors' AUC is this one: the trapezoid rule over equal steps. They change one pixel row "
    "(224 pixels) a step, ranked by the map at full size: that is unit=pixels, steps=224."
)


@register
@dataclass(frozen=True)
class Deletion(EvenSteps):
    """steps: how many equal parts of the image are removed, one after the other."""

    imputer: Imputer = "zero"

    card: ClassVar[MetricCard] = MetricCard(
        name="deletion",
        summary="does the score fall when the most heated parts are removed?",
        formula="mean height (trapezoid rule over f from 0 to 1) of s(f), the score of the image "
        "without the share f of its most heated cells",
        better="lower",
        needs=("score",),
        source=_SOURCE,
        chance="a random map's: about half of the way from the whole image's score to nothing's",
        invariant=("scale", "shift"),
        endpoints="the whole image; all of it imputed",
        imputer="zero (as published: the preprocessing's mean colour); all others by `imputer`",
        steps="20, both ends scored",
        space=_SPACE,
        ties=TIES,
        variants=(
            "as published: unit=pixels, steps=224, imputer=zero, softmax probability of the "
            "predicted class",
            "true token removal: imputer=tokens, no pixel changes and nothing is out of "
            "distribution",
        ),
        differs=_DIFFERS,
    )


@register
@dataclass(frozen=True)
class Insertion(EvenSteps):
    """steps: how many equal parts of the image are shown, one after the other."""

    imputer: Imputer = "blur"

    direction = "insertion"
    card: ClassVar[MetricCard] = MetricCard(
        name="insertion",
        summary="does the score rise when the most heated parts are shown first?",
        formula="mean height (trapezoid rule over f from 0 to 1) of s(f), the score of the image "
        "of which only the share f of its most heated cells is shown",
        better="higher",
        needs=("score",),
        source=_SOURCE,
        chance="a random map's: about half of the way from nothing's score to the whole image's",
        invariant=("scale", "shift"),
        endpoints="all of the image imputed; the whole image",
        imputer="blur; all others by `imputer`",
        steps="20, both ends scored",
        space=_SPACE,
        ties=TIES,
        variants=(
            "as published: unit=pixels, steps=224, from a blurred image, softmax probability of "
            "the predicted class",
        ),
        differs=_DIFFERS + " Their blur is 11 pixels wide (deviation 5), which leaves objects to "
        "be seen; here its deviation is a patch's side.",
    )
