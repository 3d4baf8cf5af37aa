"""AttCAT (Qiang et al., NeurIPS 2022): attentive class activation tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import (
    CONTRIBUTES,
    GRADIENTS,
    WEIGHTS,
    Factors,
    Method,
    MethodCard,
    Plan,
    ReadPass,
    Side,
)
from heatproof.methods.registry import register
from heatproof.methods.relevance import check_same_tokens
from heatproof.methods.tokens import products
from heatproof.reading import Attention, AttentionLayer, block_of, blocks_of


@register
@dataclass(frozen=True)
class AttCAT(Method):
    """E_i = sum over blocks of (mean over heads and queries of A_i) times sum_c z_ic dS/dz_ic.

    Pooling calls, which belong to no block, are left out.

    state: z is what a block is given (`inputs`, as in the authors' notebooks), or what it puts out
        (`outputs`).
    """

    state: Literal["inputs", "outputs"] = "inputs"

    card: ClassVar[MethodCard] = MethodCard(
        name="attcat",
        summary="each block's input times its gradient, weighed by the attention a token gets",
        source="Qiang et al., NeurIPS 2022; authors' notebooks",
        reads="inputs of all blocks (state=outputs: outputs), their gradients, attention weights "
        "of all blocks",
        changes="nothing",
        values="signed; no promised sum",
        signs=CONTRIBUTES,
        cost="1 forward pass, 1 backward pass through all blocks per prompt",
        notes="All layers, signed, as the authors' notebooks for BERT take them, which pair each "
        "block's attention with its input. In a pre-norm model read at one row, the last block "
        "adds nothing to patches either way: its output has no gradient at other rows, and its "
        "input has z dS/dz = 0 there, because a norm removes its length.",
    )

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        blocks = blocks_of(layers)
        paths = tuple(layer.path for layer in layers if layer.block is not None)
        if layers[-1].path not in paths:  # a pool: its key tokens are the map's
            paths = (*paths, layers[-1].path)
        return Plan(paths=paths, weights=True, states=blocks, leaf=blocks[0])

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        layers = [layer for layer in read.trace.layers if layer.block is not None]
        blocks = [read.states[block_of(layer)] for layer in layers]
        states = [b.input if self.state == "inputs" else b.output for b in blocks]
        check_same_tokens(read.trace.layers)
        attended = [_attended(layer) for layer in layers]
        maps: list[Tensor] = []
        for grads in read.gradients_of(states):
            parts = [
                weights * products(state, grad)
                for weights, state, grad in zip(attended, states, grads, strict=True)
            ]
            maps.append(torch.stack(parts).sum(0))
        return torch.stack(maps, dim=1)

    def factors(self, side: Side) -> Factors:
        del side
        return Factors((WEIGHTS, f"block {self.state}", GRADIENTS))


def _attended(layer: Attention) -> Float[Tensor, "item token"]:
    assert layer.weights is not None
    return layer.weights.detach().mean((1, 2))
