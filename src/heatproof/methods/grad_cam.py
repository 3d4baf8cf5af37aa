"""Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391) on the tokens of the last block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import SPEAKS, Factors, Method, MethodCard, Plan, ReadPass, Side
from heatproof.methods.registry import register
from heatproof.methods.tokens import content_of, on_tokens
from heatproof.reading import AttentionLayer, block_of, by_token
from heatproof.reading.attention_call import at_least_float32
from heatproof.reading.interventions import one_head


@register
@dataclass(frozen=True)
class GradCAM(Method):
    """E_i = sum_c a_c x_ic with a_c the mean over tokens of dS/dx_ic.

    at: `norm1` reads what the last block's attention is given (its first norm's output), `block`
        what the block itself is given.
    mean: a_c over the `patches`, or over `all` tokens.
    heads: `model`, or `one` head over the full width in the last attention.

    `at=block mean=all heads=one` is the variant of Grad-ECLIP's evaluation script.
    """

    at: Literal["norm1", "block"] = "norm1"
    mean: Literal["patches", "all"] = "patches"
    heads: Literal["model", "one"] = "model"

    card: ClassVar[MethodCard] = MethodCard(
        name="grad-cam",
        summary="last block's channels, weighed by their mean gradient",
        source="Selvaraju et al., ICCV 2017, arXiv 1610.02391; pytorch-grad-cam for ViTs",
        reads="the last block's normalised tokens and their gradients",
        changes="nothing (at=norm1, heads=model); forward pass: one head (heads=one)",
        values="signed; no promised sum",
        signs=SPEAKS,
        cost="1 forward pass, 1 backward pass through the last block per prompt",
        sides=("image",),
        notes="pytorch-grad-cam's target for ViTs: norm1 of the last block, mean over patches. "
        "Its ReLU is left to display. An attention-pooled ResNet is read where its pool is fed, "
        "which is the paper's own place.",
    )

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        # The last call among tokens: a pool that follows it has queries of its own.
        body = [layer for layer in layers if layer.queries == layer.keys]
        last = body[-1] if body else layers[-1]
        target = last.path.split("#")[0] if self.at == "norm1" else block_of(last)
        changes = {last.path: one_head()} if self.heads == "one" else {}
        return Plan(
            paths=tuple(dict.fromkeys((last.path, layers[-1].path))),
            interventions=changes,
            states=(target,),
            leaf=target,
        )

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        (state,) = read.states.values()
        tokens = by_token(at_least_float32(state.input.detach()))
        content = content_of(read, tokens)
        maps: list[Tensor] = []
        for (grad,) in read.gradients_of([state.input]):
            gradient = by_token(at_least_float32(grad))
            averaged = content_of(read, gradient) if self.mean == "patches" else gradient
            cam = content @ averaged.mean(1, keepdim=True).transpose(1, 2)
            maps.append(on_tokens(read, cam[..., 0], read.batch.content))
        return torch.stack(maps, dim=1)

    def factors(self, side: Side) -> Factors:
        del side
        native = ("tokens of the last block", "gradients of the score with respect to them")
        changed = "one attention head over the full width in place of the model's heads"
        return Factors(native, (changed,) if self.heads == "one" else (), "forward pass")
