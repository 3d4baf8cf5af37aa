"""Grad-ECLIP (Zhao et al., ICML 2024; eqs. 5-8 and the authors' generate_emap.py and notebooks)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import EXPLAINED, MethodCard, ReadPass
from heatproof.methods.eclip import Eclip
from heatproof.methods.readout import ReadoutMethod
from heatproof.methods.registry import register
from heatproof.reading import Attention
from heatproof.reading.attention_call import at_least_float32


@register
@dataclass(frozen=True)
class GradECLIP(Eclip, ReadoutMethod):
    """E_i = u_i sum_c g_c v_ic, with g = dS/do_r: the intermediate-feature route."""

    card: ClassVar[MethodCard] = MethodCard(
        name="grad-eclip",
        summary="channel gradients times values, weighed by a loosened attention",
        source="Zhao et al., ICML 2024 (PMLR 235); authors' generate_emap.py",
        reads="queries, keys, values and gradients of attention outputs",
        changes="forward pass: one head in place of the model's (heads=one); attention weights "
        "replaced by a min-max normalised cosine (spatial=loosened)",
        values="signed; no promised sum",
        signs=EXPLAINED,
        cost="1 forward pass, 1 backward pass to the first layer read per prompt",
    )

    def channel_sums(self, read: ReadPass, layers: Sequence[Attention]) -> Iterator[list[Tensor]]:
        values = [at_least_float32(layer.value.detach()) for layer in layers]
        for grads in read.gradients(layers, ("output",)):
            yield [
                torch.einsum("ihrc,ihkc->ihrk", read.rows(grad, layer), value)
                for grad, layer, value in zip(grads["output"], layers, values, strict=True)
            ]

    def contributions(self, read: ReadPass) -> Float[Tensor, "item head channel token"] | None:
        """u_i v^h_ic; `attention-eclip` keeps its own route, so that the two can be compared."""
        if self.rectify != "none":
            return None
        layer = read.last
        values = at_least_float32(layer.value.detach()).transpose(-2, -1)
        return self.spatial_weight(read, layer).unsqueeze(1) * values
