"""Input x gradient (Shrikumar et al., arXiv 1605.01713): the first-order share of every pixel."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import (
    CONTRIBUTES,
    Factors,
    MethodCard,
    ReadPass,
    ScoreMethod,
    Side,
)
from heatproof.methods.input_leaf import input_leaf
from heatproof.methods.registry import register
from heatproof.reading.attention_call import at_least_float32


@register
@dataclass(frozen=True)
class InputXGradient(ScoreMethod):
    """E_i = sum over a patch's pixels and channels of x dS/dx (text: over a token's channels)."""

    card: ClassVar[MethodCard] = MethodCard(
        name="input-x-gradient",
        summary="preprocessed pixels (or token embeddings) times the score's gradient",
        source="Shrikumar et al., arXiv 1605.01713; captum's InputXGradient",
        reads="the input and the score's gradient with respect to it",
        changes="nothing",
        values="signed; no promised sum (biases and position embeddings take their share)",
        signs=CONTRIBUTES,
        cost="2 forward passes, 1 backward pass through the whole tower per prompt",
        notes="Captum's: signed, in the units that the model takes (normalised pixels). Its "
        "pixel map is added up over channels and patches.",
    )

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        leaf = input_leaf(read)
        point = at_least_float32(leaf.point)
        maps = [leaf.per_token(point * grad) for grad in leaf.gradients(leaf.point)]
        return torch.stack(maps, dim=1)

    def factors(self, side: Side) -> Factors:
        what = "pixels" if side == "image" else "token embeddings"
        return Factors((what, "gradients of the score with respect to them"))
