"""Stand in for a method, to look at it while it runs: override what is to be seen."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import Factors, Method, Plan, ReadPass, Side
from heatproof.reading import AttentionLayer


class MethodProxy(Method):
    """Hand every question on to `method`.

    The fast paths (`linear`, `shares`) are not handed on: the engine then asks the method itself
    for each map, which is what a proxy is there to see.
    """

    def __init__(self, method: Method) -> None:
        self.method, self.card = method, method.card  # pyright: ignore[reportAttributeAccessIssue]

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        """Return the method's plan."""
        return self.method.plan(layers, side)

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        """Return the method's values."""
        return self.method.attribute(read)

    def factors(self, side: Side) -> Factors:
        """Return what the method says that its maps are made of."""
        return self.method.factors(side)

    def settings(self) -> dict[str, Any]:
        """Return the method's settings."""
        return self.method.settings()

    def total(self, read: ReadPass) -> Float[Tensor, "item target"] | None:
        """Return what the method's values promise to add up to."""
        return self.method.total(read)

    def explained(self, read: ReadPass) -> Float[Tensor, "item target"]:
        """Return the score that the method's values are about."""
        return self.method.explained(read)
