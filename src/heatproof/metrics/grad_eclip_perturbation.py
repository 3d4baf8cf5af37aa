"""The Grad-ECLIP authors' deletion and insertion, in the model's own view."""

from dataclasses import dataclass
from typing import ClassVar

from heatproof.metrics.base import MetricCard
from heatproof.metrics.masked_scores import Imputer, Of
from heatproof.metrics.perturbation_curves import TIES, PerturbationCurve, Unit
from heatproof.metrics.registry import register

HALF = tuple(n / 20 for n in range(11))
"""The shares at which the authors' script scores: half of the image is never touched."""
_SOURCE = "Zhao et al., ICML 2024; authors' imagenet_eval_deletion.py"
_CHANCE = "a random map's: the accuracy where random pixels are removed"
_SPACE = "whether the item's prompt beats all others (top-1 accuracy); the score by of=score"
_DIFFERS = (
    "The authors perturb the photo before the crop, so that pixels outside the crop cost "
    "nothing; here the pixels that the model sees are perturbed. Their script prints the points "
    "and no area: the mean height over the points is ours. For their photos to the letter "
    "see `heatproof reproduce`, which perturbs them."
)


@register
@dataclass(frozen=True)
class GradECLIPDeletion(PerturbationCurve):
    """Half of the image's pixels, in ten steps, replaced by random colours."""

    imputer: Imputer = "noise"
    unit: Unit = "pixels"
    of: Of = "accuracy"

    card: ClassVar[MetricCard] = MetricCard(
        name="grad-eclip-deletion",
        summary="deletion by the Grad-ECLIP authors' script: half of the pixels, random colours",
        formula="mean height (trapezoid rule over f = 0, 0.05, ..., 0.5) of s(f), the accuracy "
        "without the share f of the most heated pixels",
        better="lower",
        needs=("hit", "levels"),
        source=_SOURCE,
        chance=_CHANCE,
        invariant=("scale", "shift"),
        endpoints="the whole image; half of it in random colours: the curve stops in the middle",
        imputer="noise; the authors' colours had no seed",
        steps="11 points",
        space=_SPACE,
        ties=TIES,
        variants=(
            "top-5 and top-10 accuracy: by the trial's `hit`",
            "the map of the predicted label instead of the true one: by the trial's prompts",
        ),
        differs=_DIFFERS,
    )

    def shares(self) -> tuple[float, ...]:
        """Return the shares at which the authors' script scores."""
        return HALF


@register
@dataclass(frozen=True)
class GradECLIPInsertion(PerturbationCurve):
    """Half of the image's pixels, in ten steps, shown on black."""

    imputer: Imputer = "black"
    unit: Unit = "pixels"
    of: Of = "accuracy"

    direction = "insertion"
    card: ClassVar[MetricCard] = MetricCard(
        name="grad-eclip-insertion",
        summary="insertion by the Grad-ECLIP authors' script: half of the pixels, on black",
        formula="mean height (trapezoid rule over f = 0.05, ..., 0.5) of s(f), the accuracy where "
        "only the share f of the most heated pixels is shown",
        better="higher",
        needs=("hit", "levels"),
        source=_SOURCE,
        chance=_CHANCE,
        invariant=("scale", "shift"),
        endpoints="5 % of the image on black; half of it",
        imputer="black",
        steps="10 points; the script's eleventh is the whole image, which stands in no area",
        space=_SPACE,
        ties=TIES,
        differs=_DIFFERS + " As released the script stops with a NameError.",
    )

    def shares(self) -> tuple[float, ...]:
        """Return the shares at which the authors' script scores."""
        return HALF[1:]
