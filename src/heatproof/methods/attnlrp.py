"""AttnLRP (Achtibat et al., ICML 2024, arXiv 2402.05602): input times ruled gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import SPEAKS, Factors, Method, MethodCard, Plan, ReadPass, Side
from heatproof.methods.input_x_gradient import InputXGradient
from heatproof.methods.registry import register
from heatproof.methods.ruled import ruled_pass, ruled_plan
from heatproof.reading import AttentionLayer
from heatproof.reading.backward_rules import frozen_attention, shared_attention


@register
@dataclass(frozen=True)
class AttnLRP(Method):
    """Relevance of pixels (text: of token embeddings), the eps-rule's limit on linear maps.

    attention: `attnlrp` differentiates the softmax and shares both products' relevance evenly
        between their operands; `cp` takes attention weights for constants (CP-LRP).
    """

    attention: Literal["attnlrp", "cp"] = "attnlrp"

    card: ClassVar[MethodCard] = MethodCard(
        name="attnlrp",
        summary="layer-wise relevance of the input, with rules for softmax and attention products",
        source="Achtibat et al., ICML 2024, arXiv 2402.05602; authors' LXT",
        reads="the input and gradients under the rules with respect to it",
        changes="gradients only: norm denominators and activation gates are constants; products "
        "of two branches share theirs evenly",
        values="signed; no promised sum (biases and position embeddings keep their relevance)",
        signs=SPEAKS,
        cost="2 forward passes, 1 backward pass through the whole tower per prompt",
        notes="The paper's rules as LXT's efficient mode computes them (input times gradient, a "
        "quarter to queries and keys, half to values), with eps 0. For ViTs the authors take "
        "CP-LRP in attention (attention=cp) and sweep the gamma rule on linear and convolution "
        "layers. They give gamma no one default, so it is left out here: their ViT maps differ.",
    )

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        # Rules change gradients alone, so that the pass that is read stays the model's own.
        rule = shared_attention if self.attention == "attnlrp" else frozen_attention
        return ruled_plan(
            InputXGradient().plan(layers, side), {layer.path: rule() for layer in layers}
        )

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        return InputXGradient().attribute(ruled_pass(read))

    def factors(self, side: Side) -> Factors:
        native = ("pixels" if side == "image" else "token embeddings",)
        return Factors(
            native,
            ("AttnLRP's backward rules in place of the model's own derivatives",),
            "backward rule",
        )
