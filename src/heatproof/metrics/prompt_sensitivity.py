"""Prompt sensitivity: does the map change when the prompt says nothing of the image?"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.engine.following import NULL_PROMPTS, change
from heatproof.metrics.base import Metric, MetricCard, Trial
from heatproof.metrics.registry import register


@register
@dataclass(frozen=True)
class PromptSensitivity(Metric):
    """null: the prompt that is asked instead, or the mean over all three."""

    null: Literal["all", "empty", "gibberish", "unrelated"] = "all"

    card: ClassVar[MetricCard] = MetricCard(
        name="prompt-sensitivity",
        summary="how much does the map change with a prompt that means nothing here?",
        formula="mean over null prompts p of 1 - cosine(m, m_p), signed maps",
        better="higher",
        needs=("explain",),
        source="ours, as the certificate's check of null prompts; the question is principle 2 of "
        "arXiv 2605.12952",
        bounds=(0.0, 2.0),
        chance="0 for a map that does not look at the prompt, 1 for noise drawn anew",
        undefined="",
        invariant=("scale", "sign"),
        variants=("null=empty, gibberish or unrelated: one prompt alone",),
        differs="A map of chance changes with every draw: the audit holds this to the noise floor "
        "of the same prompt asked twice; here `random` stands in every table instead.",
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        own = trial.flat_maps
        names = NULL_PROMPTS if self.null == "all" else (self.null,)
        found = [change(own[:, None], trial.maps_again(prompt=name))[:, 0] for name in names]
        # Rounding makes a cosine a little more than 1.
        return torch.stack(found).mean(0).clamp(0, 2)
