"""Attention-ECLIP (arXiv 2605.12952): Grad-ECLIP's map straight from the attention gradient.

o_r = sum_i A_ri v_i is linear in A, so dS/dA_ri = g . v_i: one gradient, and no values.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from heatproof.methods.base import EXPLAINED, MethodCard, ReadPass
from heatproof.methods.eclip import Eclip
from heatproof.methods.readout import ReadoutMethod
from heatproof.methods.registry import register
from heatproof.reading import Attention


@register
@dataclass(frozen=True)
class AttentionECLIP(Eclip, ReadoutMethod):
    """E_i = u_i sum_h dS/dA^h_ri: equal to `GradECLIP` for every setting of the options."""

    card: ClassVar[MethodCard] = MethodCard(
        name="attention-eclip",
        summary="attention gradients, weighed by a loosened attention; equals grad-eclip",
        source="arXiv 2605.12952, whose abstract alone could be read",
        reads="attention gradients, queries and keys",
        changes="forward pass: one head in place of the model's (heads=one); attention weights "
        "replaced by a min-max normalised cosine (spatial=loosened)",
        values="signed; no promised sum",
        signs=EXPLAINED,
        notes="The paper's full text was not available: the formula is derived from its abstract.",
        cost="1 forward pass, 1 backward pass to the first layer read per prompt",
    )

    @property
    def needs_weights(self) -> bool:
        return True

    def channel_sums(self, read: ReadPass, layers: Sequence[Attention]) -> Iterator[list[Tensor]]:
        for grads in read.gradients(layers, ("weights",)):
            yield [
                read.rows(grad, layer) for grad, layer in zip(grads["weights"], layers, strict=True)
            ]
