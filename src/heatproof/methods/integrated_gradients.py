"""Integrated gradients (Sundararajan et al., ICML 2017, arXiv 1703.01365, eq. 1)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
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
from heatproof.registry import number


@register
@dataclass(frozen=True)
class IntegratedGradients(ScoreMethod):
    """E = (x - x') times the gradient averaged on the straight line from x' = 0 to x.

    steps: points of the Gauss-Legendre rule.
    """

    steps: int = number(50, least=1)

    card: ClassVar[MethodCard] = MethodCard(
        name="integrated-gradients",
        summary="gradients on the way from an empty input, averaged, times the input",
        source="Sundararajan et al., ICML 2017, arXiv 1703.01365; captum's IntegratedGradients",
        reads="the input, and gradients at points on the line to it from zero",
        changes="the input: gradients are taken at scaled-down images",
        values="signed; near S(x) - S(0), but not to a stated tolerance at 50 steps",
        signs=CONTRIBUTES,
        cost="1 + steps forward passes, steps backward passes per prompt (51 and 50)",
        notes="Captum's 50 steps, Gauss-Legendre rule and zero baseline (the normalisation's mean "
        "colour; on the text side zero embeddings). The paper takes a Riemann sum of 20 to 300 "
        "steps. On ViTs 50 steps do not reach the promised sum, so none is certified.",
    )

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        leaf = input_leaf(read)
        point = at_least_float32(leaf.point)
        nodes, weights = np.polynomial.legendre.leggauss(self.steps)  # on [-1, 1]
        # Added up as they come: all steps' gradients at once would take their number in memory.
        maps = [torch.zeros_like(point) for _ in range(read.targets)]
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            grads = leaf.gradients(leaf.point * ((1 + node) / 2))
            maps = [so_far + grad * (weight / 2) for so_far, grad in zip(maps, grads, strict=True)]
        return torch.stack([leaf.per_token(point * mean) for mean in maps], dim=1)

    def factors(self, side: Side) -> Factors:
        what = "pixels" if side == "image" else "token embeddings"
        return Factors((what, "the model's own gradients at scaled-down inputs"))
