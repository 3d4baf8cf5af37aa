"""Grad-CAM on attention weights, as Chefer et al. (CVPR 2021, arXiv 2012.09838) compare with it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import GRADIENTS, SPEAKS, WEIGHTS, Factors, MethodCard, ReadPass
from heatproof.methods.readout import ReadoutMethod
from heatproof.methods.registry import register


@register
@dataclass(frozen=True)
class AttentionGradCAM(ReadoutMethod):
    """E_i = mean over heads of A_ri times the mean over content keys j of dS/dA_rj."""

    card: ClassVar[MethodCard] = MethodCard(
        name="attention-grad-cam",
        summary="each head's attention, weighed by the mean of its gradient",
        source="Selvaraju et al., ICCV 2017, on attention: Chefer et al., arXiv 2012.09838",
        reads="attention weights of the readout in the last call and their gradients",
        changes="nothing",
        values="signed; no promised sum",
        signs=SPEAKS,
        cost="1 forward pass, 1 backward pass through the last block per prompt",
        notes="The authors' generate_cam_attn: last layer, mean over patches, mean over heads. "
        "Their ReLU of the result is left to display. On the text side, of which they have none, "
        "the mean is over the whole context.",
    )

    made_of = Factors((WEIGHTS, GRADIENTS))

    def is_linear(self) -> bool:
        return True

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        layer = read.last
        assert layer.weights is not None
        weights = read.rows(layer.weights.detach(), layer)
        maps: list[Tensor] = []
        for grads in read.gradients([layer], ("weights",)):
            rows = read.rows(grads["weights"][0], layer)
            channel = rows[..., read.batch.content].mean(-1, keepdim=True)
            maps.append((channel * weights).mean((1, 2)))
        return torch.stack(maps, dim=1)

    def contributions(self, read: ReadPass) -> Float[Tensor, "item head channel token"]:
        """A^h_ri times the mean over content keys j of v^h_jc, over the number of heads."""
        layer = read.last
        assert layer.weights is not None
        weights = read.rows(layer.weights.detach(), layer)
        values = layer.value.detach()[:, :, read.batch.content].mean(2)
        return values.unsqueeze(-1) * weights / layer.heads
