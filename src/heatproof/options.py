"""Catalogues of classes with switches: a frozen dataclass's fields, read as a user writes them."""

import contextlib
import dataclasses
import functools
import math
import numbers
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from heatproof.checking import shown
from heatproof.errors import InputError, UnknownName

T = TypeVar("T")
Kind = Literal["choice", "a whole number", "a number", "true or false"]


@dataclass(frozen=True)
class Bounds:
    """What a number may be: `least` and `most` may be reached, `above` may not."""

    least: float | None = None
    above: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        said = (("at least", self.least), ("above", self.above), ("at most", self.most))
        return "".join(f", {word} {bound:g}" for word, bound in said if bound is not None)

    def hold(self, value: float) -> bool:
        return not (
            (self.least is not None and value < self.least)
            or (self.above is not None and value <= self.above)
            or (self.most is not None and value > self.most)
        )


def number(
    default: float | None,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
) -> Any:
    """A switch's field whose number is bounded."""
    bounds = Bounds(least, above, most)
    return dataclasses.field(default=default, metadata={"bounds": bounds})


@dataclass(frozen=True)
class Switch:
    """A setting: its allowed values (empty: any of its `kind`) and its default.

    `words` are values beside the numbers (`all`). `optional` says that None is a value too: what
    has the switch then chooses.
    """

    allowed: tuple[str, ...]
    default: Any
    kind: Kind = "a whole number"
    optional: bool = True
    words: tuple[str, ...] = ()
    bounds: Bounds = Bounds()

    @property
    def values(self) -> str:
        """What may be set, in words."""
        if self.allowed:
            return " or ".join(self.allowed)
        return " or ".join((self.kind, *self.words))


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
            InputError: a value of another kind, or out of bounds.
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
    kind: str, name: str, switches: Mapping[str, Switch], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a class, checked by its switches; texts become what they stand for.

    Raises:
        UnknownName: no such switch or value; InputError: a value of another kind, or out of bounds.
    """
    for key in settings:
        if not switches:
            raise InputError(f"{kind} {name} has no switches, got {shown(key)}")
        if key not in switches:
            raise UnknownName(f"switch of {name}", key, switches)
    said = {key: _read(switches[key], value) for key, value in settings.items()}
    return {key: checked(name, key, switches[key], value) for key, value in said.items()}


@functools.cache
def switches_of(made: type) -> Mapping[str, Switch]:
    """The switches of a dataclass: its fields."""
    hints = typing.get_type_hints(made)
    return {field.name: _switch(hints[field.name], field) for field in dataclasses.fields(made)}


def _switch(hint: Any, field: "dataclasses.Field[Any]") -> Switch:
    """A switch by the type of its field: a choice, bool, int or float, perhaps words or None."""
    if typing.get_origin(hint) is Literal:
        return Switch(typing.get_args(hint), field.default, "choice", optional=False)
    kinds = typing.get_args(hint) or (hint,)
    words = [typing.get_args(each) for each in kinds if typing.get_origin(each) is Literal]
    kind: Kind = "a number" if float in kinds else "a whole number"
    return Switch(
        (),
        field.default,
        "true or false" if bool in kinds else kind,
        type(None) in kinds,
        tuple(word for some in words for word in some),
        field.metadata.get("bounds", Bounds()),
    )


def checked(owner: str, key: str, switch: Switch, value: Any) -> Any:
    """The value as a switch of `owner` holds it: numbers are Python's own.

    Raises:
        UnknownName: none of the allowed values. InputError: another kind of value.
    """
    if switch.allowed:
        if not (isinstance(value, str) and value in switch.allowed):
            said = value if isinstance(value, str) else shown(value)
            raise UnknownName(f"value of {owner}'s {key}", said, switch.allowed)
        return value
    if (value is None and switch.optional) or (isinstance(value, str) and value in switch.words):
        return value
    made = _as_kind(switch.kind, value)
    if made is None or not switch.bounds.hold(made):
        expected = f"{switch.values}{switch.bounds}"
        raise InputError(f"got {key}={shown(value)} for {owner}, expected {expected}")
    return made


def _as_kind(kind: Kind, value: Any) -> bool | int | float | None:
    """The value as Python's own number or truth; None where it is of another kind."""
    if isinstance(value, bool):
        return value if kind == "true or false" else None
    if kind == "a whole number" and isinstance(value, numbers.Integral):
        return int(value)
    if kind == "a number" and isinstance(value, numbers.Real):
        with contextlib.suppress(OverflowError):  # of a whole number beyond all floats
            return float(value) if math.isfinite(value) else None
    return None


def _read(switch: Switch, value: Any) -> Any:
    """What a text says, as it comes from a command line; what says nothing stays as it is."""
    if not isinstance(value, str) or switch.allowed or value in switch.words:
        return value
    if switch.optional and value == "None":
        return None
    try:
        return _READ[switch.kind](value)
    except (KeyError, ValueError):
        return value


_READ: dict[Kind, Callable[[str], Any]] = {
    "a whole number": int,
    "a number": float,
    "true or false": {"True": True, "true": True, "False": False, "false": False}.__getitem__,
}
