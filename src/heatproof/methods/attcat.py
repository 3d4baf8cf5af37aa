"""AttCAT (Qiang et al., NeurIPS 2022): attentive class activation tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import CONTRIBUTES, Factors, Method, MethodCard, Plan, ReadPass, Side
from heatproof.methods.registry import register
from heatproof.methods.relevance import check_same_tokens
from heatproof.methods.token_states import blocks_of, products
from heatproof.reading import Attention, AttentionLayer


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
        cost="1 forward pass, 1 backward pass through all blocks a prompt",
        notes="All layers, signed, as the authors' notebooks for BERT take them, which pair each "
        "block's attention with its input. In a pre-norm model read at one row, the last block "
        "adds nothing to patches either way: its output has no gradient at other rows, and its "
        "input has z dS/dz = 0 there, for a norm takes its length away.",
    )

    def plan(self, sites: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        blocks = blocks_of(sites)
        paths = tuple(site.path for site in sites if site.block is not None)
        paths = paths if sites[-1].path in paths else (*paths, sites[-1].path)
        return Plan(paths, weights=True, start=None, states=blocks, leaf=blocks[0])

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        layers = [layer for layer in read.trace.layers if _inside(layer.path, read)]
        blocks = [read.states[_inside(layer.path, read)] for layer in layers]
        states = [each.input if self.state == "inputs" else each.output for each in blocks]
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
        return Factors(
            (
                "attention weights",
                f"block {self.state}",
                "gradients of the score with respect to them",
            )
        )


def _attended(layer: Attention) -> Float[Tensor, "item token"]:
    assert layer.weights is not None
    return layer.weights.detach().mean((1, 2))


def _inside(path: str, read: ReadPass) -> str:
    """The block that was observed around a call ("" where there is none)."""
    return next((block for block in read.states if path.startswith(f"{block}.")), "")
