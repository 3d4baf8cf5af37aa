"""Attention x gradient at the readout (the default): the same algebra on the untouched model.

E_i = sum_h A^h_ri dS/dA^h_ri. Since dS/dA^h_ri = g^h . v^h_i, the values of all keys, the readout's
own included, add up to sum_h g^h . o^h_r exactly.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import CONTRIBUTES, GRADIENTS, WEIGHTS, Factors, MethodCard, ReadPass
from heatproof.methods.readout import ReadoutMethod
from heatproof.methods.registry import register


@register
@dataclass(frozen=True)
class AttentionXGradient(ReadoutMethod):
    """Signed share of every key in the first-order effect of the readout's attention output."""

    card: ClassVar[MethodCard] = MethodCard(
        name="attention-x-gradient",
        summary="the model's own attention times its gradient, at the readout of the last layer",
        source="algebra of arXiv 2605.12952 on the untouched model",
        reads="attention weights and their gradients in the last attention call",
        changes="nothing",
        values="signed; all key tokens add up to g . o_r, the readout's gradient times its output",
        signs=CONTRIBUTES,
        cost="1 forward pass, 1 backward pass through the last block per prompt",
    )

    made_of = Factors((WEIGHTS, GRADIENTS))

    def is_linear(self) -> bool:
        return True

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        layer = read.last
        assert layer.weights is not None
        weights = read.rows(layer.weights.detach(), layer)
        return torch.stack(
            [
                (weights * read.rows(grads["weights"][0], layer)).sum((1, 2))
                for grads in read.gradients([layer], ("weights",))
            ],
            dim=1,
        )

    def total(self, read: ReadPass) -> Float[Tensor, "item target"]:
        layer = read.last
        output = read.rows(layer.output.detach(), layer)
        return torch.stack(
            [
                (output * read.rows(grads["output"][0], layer)).sum((1, 2, 3))
                for grads in read.gradients([layer], ("output",))
            ],
            dim=1,
        )

    def contributions(self, read: ReadPass) -> Float[Tensor, "item head channel token"]:
        """A^h_ri v^h_ic."""
        layer = read.last
        assert layer.weights is not None
        weights = read.rows(layer.weights.detach(), layer)
        return weights * layer.value.detach().transpose(-2, -1)
