"""Generic attention explainability, GAE (Chefer et al., ICCV 2021, arXiv 2103.15679, eqs. 5-6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import (
    GRADIENTS,
    NEVER,
    WEIGHTS,
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
from heatproof.methods.relevance import carried, check_same_tokens, readout_of
from heatproof.reading import Attention, AttentionLayer


@register
@dataclass(frozen=True)
class GAE(Method):
    """R <- R + mean over heads of (A * dS/dA)+ times R, from R = 1; row r.

    layers: the last n calls only, or `all` (the default, as in the paper and the authors' ViT
        notebook; their CLIP notebook takes the last one).
    """

    layers: Layers = None

    card: ClassVar[MethodCard] = MethodCard(
        name="gae",
        summary="positive attention times gradient, carried through the layers",
        source="Chefer et al., ICCV 2021, arXiv 2103.15679",
        reads="attention weights and their gradients in every call",
        changes="nothing",
        values="not negative; no promised sum",
        signs=(NEVER, "relevance"),
        cost="1 forward pass, 1 backward pass through the layers read per prompt",
        notes="Over several layers the map depends on the unit of the score, because 1 is added to "
        "a product with its gradient in every layer: with score=logit (here some 100 times the "
        "cosine) paths through several layers weigh more than with score=cosine. The authors' "
        "CLIP notebook takes the logit and the last layer, where the unit is a factor of the map.",
    )

    made_of = Factors((WEIGHTS, GRADIENTS))

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        paths = last_paths(layers, self.layers, len(layers))
        return Plan(paths=paths, weights=True, start=paths[0])

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        layers = read.trace.layers
        check_same_tokens(layers)
        maps = [
            readout_of(read, carried(layers, list(map(_step, layers, grads["weights"]))))
            for grads in read.gradients(layers, ("weights",))
        ]
        return torch.stack(maps, dim=1)


def _step(
    layer: Attention, gradient: Float[Tensor, "item head query key"]
) -> Float[Tensor, "item query key"]:
    assert layer.weights is not None
    return (layer.weights.detach() * gradient).clamp(min=0).mean(1)
