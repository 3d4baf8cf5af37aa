"""The catalogue: a method registered here is listed, offered on the command line, and tested."""

from typing import Any

from heatproof.methods.base import Method, MethodCard
from heatproof.registry import Registry

_METHODS: Registry[Method] = Registry("method")
register = _METHODS.register


def create(name: str, **settings: Any) -> Method:
    """Return the method of that name; settings may be texts, as a command line gives them.

    Raises:
        UnknownName: no such method, option or value; the nearest names are offered.
        InputError: a value of another kind, or out of bounds.
    """
    return _METHODS.create(name, **settings)


def catalogue() -> dict[str, MethodCard]:
    """Return the card of every method by name: what it computes, from what, and its options."""
    return {name: method.card for name, method in _METHODS}
