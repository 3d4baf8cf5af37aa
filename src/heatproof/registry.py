"""Catalogues of classes with typed options: frozen dataclasses whose fields a user may set.

Nothing here imports torch: the command line checks options before it loads a model.
"""

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
C = TypeVar("C", bound=type[Any])
ValueKind = Literal["choice", "a whole number", "a number", "true or false"]


@dataclass(frozen=True)
class NumberBounds:
    """What a number may be: `least` and `most` may be reached, `above` may not."""

    least: float | None = None
    above: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        said = (("at least", self.least), ("above", self.above), ("at most", self.most))
        return "".join(f", {word} {bound:g}" for word, bound in said if bound is not None)

    def hold(self, value: float) -> bool:
        """Return whether the value lies within the bounds."""
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
    """Return the dataclass field of an option whose number is bounded."""
    bounds = NumberBounds(least, above, most)
    return dataclasses.field(default=default, metadata={"bounds": bounds})


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option: its allowed values (empty: any of its `kind`) and its default.

    `words` are values beside the numbers (`all`). `optional` says that None is a value too: the
    class then chooses for itself.
    """

    allowed: tuple[str, ...] = ()
    default: Any
    kind: ValueKind = "a whole number"
    optional: bool = True
    words: tuple[str, ...] = ()
    bounds: NumberBounds = NumberBounds()

    @property
    def values(self) -> str:
        """What may be set, in words."""
        if self.allowed:
            return " or ".join(self.allowed)
        return " or ".join((self.kind, *self.words))


class Registry(Generic[T]):
    """Classes by the name on their card; `kind` is what errors call them ("method")."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.classes: dict[str, type[T]] = {}

    def register(self, cls: C) -> C:
        """Put a class with a `card` into the catalogue; its fields become the card's options.

        Raises:
            ValueError: the name is taken.
        """
        name = cls.card.name
        if name in self.classes:
            raise ValueError(f"two {self.kind}s are called {name!r}")
        # On the card, so that the catalogue is the cards and no second class.
        cls.card = dataclasses.replace(cls.card, options=options_of(cls))
        self.classes[name] = typing.cast(type[T], cls)
        return cls

    def __iter__(self) -> Iterator[tuple[str, type[T]]]:
        return iter(sorted(self.classes.items()))

    def create(self, name: str, /, **settings: Any) -> T:
        """Return the instance of that name; settings may be texts, as a command line gives them.

        Raises:
            UnknownName: no such name, option or value; the nearest names are offered.
            InputError: a value of another kind, or out of bounds.
        """
        check_name(self.kind, name, self.classes)
        cls = self.classes[name]
        return cls(**read_settings(self.kind, name, options_of(cls), settings))


def check_name(kind: str, name: object, names: Collection[str]) -> None:
    """Check that a class is called so.

    Raises:
        UnknownName: none is; InputError: it is no name.
    """
    if not isinstance(name, str):
        raise InputError(f"got the {kind} {shown(name)}, expected a name such as {min(names)!r}")
    if name not in names:
        raise UnknownName(kind, name, names)


def read_settings(
    kind: str, name: str, options: Mapping[str, Option], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings of a class, checked by its options, texts turned into what they mean.

    Raises:
        UnknownName: no such option or value; InputError: a value of another kind, or out of bounds.
    """
    for key in settings:
        if not options:
            raise InputError(f"{kind} {name} has no options, got {shown(key)}")
        if key not in options:
            raise UnknownName(f"option of {name}", key, options)
    # Unknown keys are reported before any value: a misspelt key explains an odd value.
    values = {key: _read(options[key], value) for key, value in settings.items()}
    return {key: check_value(name, key, options[key], value) for key, value in values.items()}


@functools.cache
def options_of(cls: type) -> Mapping[str, Option]:
    """Return the options of a dataclass: its fields."""
    hints = typing.get_type_hints(cls)
    return {field.name: _option(hints[field.name], field) for field in dataclasses.fields(cls)}


def _option(hint: Any, field: "dataclasses.Field[Any]") -> Option:
    """Read an option off the type of its field: a choice, bool, int or float, with words or None.

    `int | Literal["all"] | None` is a whole number, the word `all`, or nothing.
    """
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        return Option(allowed=choices, default=field.default, kind="choice", optional=False)
    kinds = typing.get_args(hint) or (hint,)
    words = [typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is Literal]
    kind: ValueKind = "a number" if float in kinds else "a whole number"
    return Option(
        default=field.default,
        kind="true or false" if bool in kinds else kind,
        optional=type(None) in kinds,
        words=tuple(word for some in words for word in some),
        bounds=field.metadata.get("bounds", NumberBounds()),
    )


def check_value(owner: str, key: str, option: Option, value: Any) -> Any:
    """Return the value as an option of `owner` holds it: numbers are Python's own.

    Raises:
        UnknownName: none of the allowed values. InputError: another kind of value.
    """
    if option.allowed:
        if not (isinstance(value, str) and value in option.allowed):
            said = value if isinstance(value, str) else shown(value)
            raise UnknownName(f"value of {owner}'s {key}", said, option.allowed)
        return value
    if (value is None and option.optional) or (isinstance(value, str) and value in option.words):
        return value
    plain = _as_kind(option.kind, value)
    if plain is None or not option.bounds.hold(plain):
        expected = f"{option.values}{option.bounds}"
        raise InputError(f"got {key}={shown(value)} for {owner}, expected {expected}")
    return plain


def _as_kind(kind: ValueKind, value: Any) -> bool | int | float | None:
    """Return the value as Python's own number or truth; None where it is of another kind."""
    if isinstance(value, bool):
        return value if kind == "true or false" else None
    if kind == "a whole number" and isinstance(value, numbers.Integral):
        return int(value)
    if kind == "a number" and isinstance(value, numbers.Real):
        with contextlib.suppress(OverflowError):  # a whole number beyond all floats
            return float(value) if math.isfinite(value) else None
    return None


def _read(option: Option, value: Any) -> Any:
    """Return what a text from a command line means; a text that means nothing stays as it is."""
    if not isinstance(value, str) or option.allowed or value in option.words:
        return value
    if option.optional and value == "None":
        return None
    try:
        return _READ[option.kind](value)
    except (KeyError, ValueError):
        return value


_READ: dict[ValueKind, Callable[[str], Any]] = {
    "a whole number": int,
    "a number": float,
    "true or false": {"True": True, "true": True, "False": False, "false": False}.__getitem__,
}
