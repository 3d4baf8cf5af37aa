"""Attention rollout (Abnar & Zuidema, arXiv 2005.00928). It knows no prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import (
    NEVER,
    Factors,
    Layers,
    Method,
    MethodCard,
    Plan,
    ReadPass,
    Side,
    last_paths,
)
from heatproof.methods.registry import register
from heatproof.methods.relevance import check_same_tokens, identity_of, is_pooling, readout_of
from heatproof.reading import AttentionLayer


@register
@dataclass(frozen=True)
class Rollout(Method):
    """Row r of the product of row-normalised (mean over heads of A + identity), all layers.

    layers: the last n calls only, or `all` (the default, as in the paper). An attention pool, whose
        query is no input token, is carried through without the identity.
    """

    layers: Layers = None

    card: ClassVar[MethodCard] = MethodCard(
        name="rollout",
        summary="attention multiplied through the layers; blind to the prompt",
        source="Abnar & Zuidema, arXiv 2005.00928",
        reads="attention weights of every call",
        changes="nothing (the residual is taken as one half by the method's own model of a block)",
        values="not negative; all key tokens add up to 1",
        signs=(NEVER, "attention"),
        cost="1 forward pass for any number of prompts",
    )

    made_of = Factors(("attention weights of every call",))

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        return Plan(paths=last_paths(layers, self.layers, len(layers)), weights=True)

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        layers = read.trace.layers
        check_same_tokens(layers)
        relevance = identity = identity_of(layers[0])
        for layer in layers:
            assert layer.weights is not None
            step = layer.weights.detach().mean(1)
            if not is_pooling(layer):  # the residual, which a pool has not
                step = step + identity
            relevance = step / step.sum(-1, keepdim=True) @ relevance
        return readout_of(read, relevance).unsqueeze(1).expand(-1, read.targets, -1)
