"""LibraGrad (Mehri et al., CVPR 2025, arXiv 2411.16760): gradient methods on balanced gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from heatproof.errors import InputError
from heatproof.methods.base import SPEAKS, Factors, Method, MethodCard, Plan, ReadPass, Side
from heatproof.methods.full_gradient import FullGradient
from heatproof.methods.registry import create, register
from heatproof.methods.ruled import ruled_pass, ruled_plan
from heatproof.reading import AttentionLayer
from heatproof.reading.backward_rules import frozen_attention

FULL = {"fullgrad": FullGradient(plus=False), "fullgrad-plus": FullGradient(plus=True)}


@register
@dataclass(frozen=True)
class LibraGrad(Method):
    """A gradient method whose gradients take attention weights, norms and gates for constants.

    of: the method, at its defaults. FullGrad takes the residual stream before the first block and
    all biases after it, FullGrad+ the stream before every block and after the last.
    """

    of: Literal[
        "fullgrad-plus",
        "fullgrad",
        "attcat",
        "attention-grad-cam",
        "attention-x-gradient",
        "gae",
        "grad-cam",
        "input-x-gradient",
        "integrated-gradients",
        "smoothgrad",
    ] = "fullgrad-plus"

    card: ClassVar[MethodCard] = MethodCard(
        name="libragrad",
        summary="a gradient method whose gradients take attention, norms and gates for constants",
        source="Mehri et al., CVPR 2025, arXiv 2411.16760",
        reads="what the method `of` reads; fullgrad: the residual stream and all biases",
        changes="gradients only: attention weights, norm denominators and activation gates are "
        "constants, products of two branches give half to each",
        values="signed (gae: not negative); all key tokens add up to the score's share at every "
        "block (of=fullgrad-plus), to the score (fullgrad), to g . o_r (attention-x-gradient)",
        signs=SPEAKS,
        cost="that of the method `of`; fullgrad: 1 forward pass, 1 backward pass per prompt, and "
        "every affine function's result kept",
        notes="FullGrad+ is the authors' best. Its sum is the score for each of the depth + 1 "
        "residual streams, less the biases above each, and all biases. Biases added after pooling "
        "lie on the readout token; where that is no token, evenly on all. The cosine's norms are "
        "constants too, else it would add up to zero.",
    )

    @property
    def inner(self) -> Method:
        """Return the method whose gradients are changed."""
        return FULL[self.of] if self.of in FULL else create(self.of)

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        inner = self.inner
        if side not in inner.card.sides:
            raise InputError(
                f"libragrad of={self.of} explains the {inner.card.sides[0]} side alone"
            )
        attention = {layer.path: frozen_attention() for layer in layers}
        return ruled_plan(inner.plan(layers, side), attention, keep_biases=self.of in FULL)

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        return self.inner.attribute(ruled_pass(read))

    def total(self, read: ReadPass) -> Float[Tensor, "item target"] | None:
        return self.inner.total(read)

    def factors(self, side: Side) -> Factors:
        del side
        native = (f"what {self.of} reads of the forward pass",)
        return Factors(
            native,
            ("LibraGrad's backward rules in place of the model's own derivatives",),
            "backward rule",
        )
