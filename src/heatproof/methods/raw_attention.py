"""Raw attention: where the readout looks in the last layer, mean over heads. It knows no prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import (
    NEVER,
    WEIGHTS,
    Factors,
    MethodCard,
    Plan,
    ReadPass,
    Side,
)
from heatproof.methods.readout import ReadoutMethod
from heatproof.methods.registry import register
from heatproof.reading import AttentionLayer


@register
@dataclass(frozen=True)
class RawAttention(ReadoutMethod):
    """E_i = mean over heads of A_ri, the same map for every prompt."""

    card: ClassVar[MethodCard] = MethodCard(
        name="raw-attention",
        summary="attention weights of the readout in the last layer; blind to the prompt",
        source="baseline of most attribution papers",
        reads="attention weights of the last attention call",
        changes="nothing",
        values="not negative; all key tokens add up to 1",
        signs=(NEVER, "attention"),
        cost="1 forward pass for any number of prompts",
    )

    made_of = Factors((WEIGHTS,))

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        return Plan(paths=(layers[-1].path,), weights=True)

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        assert read.last.weights is not None
        rows = read.rows(read.last.weights.detach(), read.last)
        return rows.mean((1, 2)).unsqueeze(1).expand(-1, read.targets, -1)
