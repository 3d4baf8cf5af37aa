"""Catalogues of classes with switches: a frozen dataclass's fields, read as a user writes them."""

import dataclasses
import math
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from heatproof.checking import shown
from heatproof.errors import InputError, UnknownName

T = TypeVar("T")
Kind = Literal["choice", "a whole number", "a number", "true or false"]


@dataclass(frozen=True)
class Switch:
    """A setting: its allowed values (empty: any of its `kind`) and its default.

    `optional` says that None is a value too: what has the switch then chooses.
    """

    allowed: tuple[str, ...]
    default: Any
    kind: Kind = "a whole number"
    optional: bool = True


class Register(Generic[T]):
    """Classes by name, each created by its name and switches. `kind` is what errors call them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.classes: dict[str, type[T]] = {}

    def add(self, name: str, made: type[T]) -> None:
        if name in self.classes:
            raise ValueError(f"two {self.kind}s are called {name!r}")
        self.classes[name] = made

    def __iter__(self) -> Iterator[tuple[str, type[T]]]:
        return iter(sorted(self.classes.items()))

    def create(self, name: str, settings: Mapping[str, Any]) -> T:
        """The instance of that name; settings may be strings, as they come from a command line.

        Raises:
            UnknownName: no such name, switch or value; the nearest names are offered.
        """
        known(self.kind, name, self.classes)
        made = self.classes[name]
        return made(**values(self.kind, name, switches_of(made), settings))


def known(kind: str, name: object, names: Collection[str]) -> None:
    """Check that a class is called so.

    Raises:
        UnknownName: none is; InputError: it is no name.
    """
    if not isinstance(name, str):
        raise InputError(f"got the {kind} {shown(name)}, expected a name such as {min(names)!r}")
    if name not in names:
        raise UnknownName(kind, name, names)


def values(
    kind: str, name: str, switches: Mapping[str, "Switch"], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a class, checked by its switches; texts become what they stand for.

    Raises:
        UnknownName: no such switch or value; InputError: a value of another kind.
    """
    for key in settings:
        if not switches:
            raise InputError(f"{kind} {name} has no switches, got {shown(key)}")
        if key not in switches:
            raise UnknownName(f"switch of {name}", key, switches)
    return {key: _value(name, key, switches[key], value) for key, value in settings.items()}


def switches_of(made: type) -> dict[str, Switch]:
    """The switches of a dataclass: its fields."""
    hints = typing.get_type_hints(made)
    return {f.name: _switch(hints[f.name], f.default) for f in dataclasses.fields(made)}


def _switch(hint: Any, default: Any) -> Switch:
    """A switch by the type of its field: a choice, bool, int or float, perhaps None."""
    if typing.get_origin(hint) is Literal:
        return Switch(typing.get_args(hint), default, "choice", optional=False)
    kinds = set(typing.get_args(hint)) or {hint}
    optional = type(None) in kinds
    if bool in kinds:
        return Switch((), default, "true or false", optional)
    return Switch((), default, "a number" if float in kinds else "a whole number", optional)


def _value(owner: str, key: str, switch: Switch, value: Any) -> Any:
    if switch.allowed:
        if not isinstance(value, str) or value not in switch.allowed:
            told = value if isinstance(value, str) else shown(value)
            raise UnknownName(f"value of {owner}'s {key}", told, switch.allowed)
        return value
    text = str(value) if isinstance(value, bool | int | float | str | None) else shown(value)
    if switch.optional and text == "None":
        return None
    try:
        return _READ[switch.kind](text)
    except (KeyError, ValueError):
        raise InputError(f"got {key}={shown(value)} for {owner}, expected {switch.kind}") from None


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
