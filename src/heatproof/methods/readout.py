"""Methods that take the readout's row alone: the optional members that make them fast."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import Method, Plan, Side
from heatproof.methods.pass_context import ReadPass
from heatproof.reading import AttentionLayer


class ReadoutMethod(Method):
    """Abstract: of each call that it reads, it takes the readout's rows alone beside keys and
    values.

    Where it reads the last call alone, the engine runs the last block on that one row. The class
    that lists `ReadoutMethod` among its bases makes the claim, for itself: see `as_readout_method`.
    """

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        """Read the last call, its weights and their gradients."""
        del side
        path = layers[-1].path
        return Plan(paths=(path,), weights=True, start=path)

    def is_linear(self) -> bool:
        """Return whether map and total are linear in the score's gradient.

        Those of any score then follow from those of the embedding's coordinates by the chain rule.
        """
        return False

    def contributions(self, read: ReadPass) -> Float[Tensor, "item head channel token"] | None:
        """Compute what one unit of dS/do_r brings to each key, o_r the readout's output in the last
        call; None where the map is not that product.

        The gradients of all targets then need no pass of their own through the attention. `read`
        has the readout's row alone.
        """
        del read
        return None


def as_readout_method(method: Method) -> ReadoutMethod | None:
    """Return the method if it claims to take the readout's rows alone, else None.

    The claim of a class does not cover a subclass that computes anything in another way: such a
    one gets the whole pass, unless it lists `ReadoutMethod` among its own bases.
    """
    if not isinstance(method, ReadoutMethod):
        return None
    for kind in type(method).__mro__:
        if ReadoutMethod in kind.__bases__:
            return method
        members = (value for name, value in vars(kind).items() if not name.startswith("__"))
        if any(callable(member) or isinstance(member, property) for member in members):
            return None
    return None
