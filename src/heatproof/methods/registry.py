"""The catalogue: a method registered here is listed, offered on the command line, and tested."""

from heatproof.methods.base import Method, MethodCard
from heatproof.registry import Registry

_METHODS: Registry[Method] = Registry("method")
register = _METHODS.register
create = _METHODS.create


def catalogue() -> dict[str, MethodCard]:
    """Return the card of every method by name: what it computes, from what, and its options."""
    return {name: method.card for name, method in _METHODS}
