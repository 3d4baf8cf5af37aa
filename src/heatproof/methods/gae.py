"""Generic attention explainability, GAE (Chefer et al., ICCV 2021, arXiv 2103.15679, eqs. 5-6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
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
    last_sites,
)
from heatproof.methods.registry import register
from heatproof.methods.relevance import check_same_tokens, identity_of, is_pooling, readout_of
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
        cost="1 forward pass, 1 backward pass through the layers read a prompt",
        notes="Over several layers the map depends on the unit of the score, for 1 is added to a "
        "product with its gradient in every layer: with score=logit (here some 100 times the "
        "cosine) paths through several layers weigh more than with score=cosine. The authors' "
        "CLIP notebook takes the logit and the last layer, where the unit is a factor of the map.",
    )

    def plan(self, sites: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        paths = last_sites(sites, self.layers, len(sites))
        return Plan(paths, weights=True, start=paths[0])

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        layers = read.trace.layers
        check_same_tokens(layers)
        maps = [
            readout_of(read, _relevance(layers, grads["weights"]))
            for grads in read.gradients(layers, ("weights",))
        ]
        return torch.stack(maps, dim=1)

    def factors(self, side: Side) -> Factors:
        del side
        return Factors(("attention weights", "gradients of the score with respect to them"))


def _relevance(layers: Sequence[Attention], gradients: Sequence[Tensor]) -> Tensor:
    relevance = identity_of(layers[0])
    for layer, gradient in zip(layers, gradients, strict=True):
        assert layer.weights is not None
        step = (layer.weights.detach() * gradient).clamp(min=0).mean(1) @ relevance
        relevance = step if is_pooling(layer) else relevance + step
    return relevance
