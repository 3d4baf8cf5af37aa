"""The catalogue: a method registered here is listed, offered on the command line, and tested."""

import dataclasses
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from heatproof.errors import InputError, UnknownName
from heatproof.methods.base import Card, Method

_M = TypeVar("_M", bound=type[Method])
Kind = Literal["choice", "a whole number", "a number", "true or false"]
_METHODS: dict[str, type[Method]] = {}


@dataclass(frozen=True)
class Switch:
    """A setting of a method: its allowed values (empty: any of its `kind`) and its default.

    `optional` says that None is a value too: the method then chooses.
    """

    allowed: tuple[str, ...]
    default: Any
    kind: Kind = "a whole number"
    optional: bool = True


@dataclass(frozen=True)
class Entry(Card):
    """A method's card with its switches."""

    switches: dict[str, Switch] = dataclasses.field(default_factory=dict[str, Switch])


def register(method: _M) -> _M:
    """Put a method class into the catalogue under its card's name."""
    name = method.card.name
    if name in _METHODS:
        raise ValueError(f"two methods are called {name!r}")
    _METHODS[name] = method
    return method


def catalogue() -> dict[str, Entry]:
    """Every method: what it computes, from what, what it changes, what its switches are."""
    return {
        name: Entry(**vars(method.card), switches=_switches(method))
        for name, method in sorted(_METHODS.items())
    }


def create(name: str, **settings: Any) -> Method:
    """The method of that name; settings may be strings, as they come from a command line.

    Raises:
        UnknownName: no such method, switch or value; the nearest names are offered.
    """
    if name not in _METHODS:
        raise UnknownName("method", name, _METHODS)
    method = _METHODS[name]
    switches = _switches(method)
    for key in settings:
        if key not in switches:
            if not switches:
                raise InputError(f"method {name} has no switches, got {key!r}")
            raise UnknownName(f"switch of {name}", key, switches)
    chosen = {key: _value(name, key, switches[key], value) for key, value in settings.items()}
    return method(**chosen)


def _switches(method: type[Method]) -> dict[str, Switch]:
    hints = typing.get_type_hints(method)
    fields = dataclasses.fields(method)  # pyright: ignore[reportArgumentType]
    return {f.name: _switch(hints[f.name], f.default) for f in fields}


def _switch(hint: Any, default: Any) -> Switch:
    """A switch by the type of its field: a choice, bool, int or float, perhaps None."""
    if typing.get_origin(hint) is Literal:
        return Switch(typing.get_args(hint), default, "choice", optional=False)
    kinds = set(typing.get_args(hint)) or {hint}
    optional = type(None) in kinds
    if bool in kinds:
        return Switch((), default, "true or false", optional)
    return Switch((), default, "a number" if float in kinds else "a whole number", optional)


def _value(method: str, key: str, switch: Switch, value: Any) -> Any:
    if switch.allowed:
        if value not in switch.allowed:
            raise UnknownName(f"value of {method}'s {key}", str(value), switch.allowed)
        return value
    text = str(value)
    if switch.optional and text == "None":
        return None
    try:
        return _READ[switch.kind](text)
    except (KeyError, ValueError):
        raise InputError(f"got {key}={value!r} for {method}, expected {switch.kind}") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


_READ: dict[Kind, Callable[[str], Any]] = {
    "a whole number": int,
    "a number": _finite,
    "true or false": {"True": True, "true": True, "False": False, "false": False}.__getitem__,
}
