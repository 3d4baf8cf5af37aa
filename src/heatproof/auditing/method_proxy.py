"""A method as it is, for checks that want to see it at work: they override what they look at."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from heatproof.methods import Factors, Method, Plan, ReadPass, Side
from heatproof.reading import AttentionLayer


class Wrapped(Method):
    """Hands everything on to `method`."""

    def __init__(self, method: Method) -> None:
        self.method, self.card = method, method.card  # pyright: ignore[reportAttributeAccessIssue]

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        return self.method.plan(layers, side)

    def attribute(self, read: ReadPass) -> Tensor:
        return self.method.attribute(read)

    def factors(self, side: Side) -> Factors:
        return self.method.factors(side)

    def settings(self) -> dict[str, Any]:
        return self.method.settings()

    def total(self, read: ReadPass) -> Tensor | None:
        return self.method.total(read)

    def explained(self, read: ReadPass) -> Tensor:
        return self.method.explained(read)
