"""The catalogue: a method registered here is listed, offered on the command line, and tested."""

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from heatproof.methods.base import Card, Method
from heatproof.options import Register, Switch, switches_of

__all__ = ["Entry", "Switch", "catalogue", "create", "register"]

_M = TypeVar("_M", bound=type[Method])
_REGISTER: Register[Method] = Register("method")
_METHODS = _REGISTER.classes


@dataclass(frozen=True)
class Entry(Card):
    """A method's card with its switches."""

    switches: dict[str, Switch] = dataclasses.field(default_factory=dict[str, Switch])


def register(method: _M) -> _M:
    """Put a method class into the catalogue under its card's name."""
    _REGISTER.add(method.card.name, method)
    method.switches = switches_of(method)
    return method


def catalogue() -> dict[str, Entry]:
    """Every method: what it computes, from what, what it changes, what its switches are."""
    return {
        name: Entry(**vars(method.card), switches=dict(switches_of(method)))
        for name, method in _REGISTER
    }


def create(name: str, **settings: Any) -> Method:
    """The method of that name; settings may be strings, as they come from a command line.

    Raises:
        UnknownName: no such method, switch or value; the nearest names are offered.
    """
    return _REGISTER.create(name, settings)
