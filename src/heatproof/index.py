"""Read the catalogues of methods and metrics without torch: names, cards and options.

`index.json` is written from the classes' own cards by `docs/generate.py`; a test holds it to them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from heatproof import registry
from heatproof.checking import shown
from heatproof.errors import InputError, UnknownName
from heatproof.registry import NumberBounds, Option

FILE = Path(__file__).with_name("index.json")
STUDY = Path(__file__).with_name("method_study.json")
ALL = "all"
PURPOSES = ("default", "fast")
"""Names that stand for methods, by side: the study in `method_study.json` chose them."""
EXPERIMENTS = ("a", "b", "c", "d", "e")
"""The experiments of `heatproof reproduce`."""
SCORES = ("cosine", "logit", "margin", "contrast:OTHER", "sigmoid-logit", "class-logit")


@dataclass(frozen=True)
class Listed:
    """A method or metric as the index lists it: the fields of its card, its options by name."""

    card: dict[str, Any]
    options: dict[str, Option]


@cache
def _read() -> dict[str, dict[str, Listed]]:
    stored = json.loads(FILE.read_text("utf-8"))
    return {
        kind: {
            name: Listed(
                each["card"],
                {key: _option(**option) for key, option in each["options"].items()},
            )
            for name, each in entries.items()
        }
        for kind, entries in stored.items()
    }


def _option(
    *, allowed: list[str], words: list[str], bounds: dict[str, Any], **others: Any
) -> Option:
    return Option(
        allowed=tuple(allowed), words=tuple(words), bounds=NumberBounds(**bounds), **others
    )


def methods() -> dict[str, Listed]:
    """Return every method by name."""
    return dict(_read()["method"])


def metrics() -> dict[str, Listed]:
    """Return every metric by name."""
    return dict(_read()["metric"])


@cache
def study() -> dict[str, Any]:
    """Return what `benchmarks/default.py` measured of the methods: quality, cost, and its choice.

    `names` holds, by side and purpose, the methods in order: each for models that refuse those
    before it.
    """
    return json.loads(STUDY.read_text("utf-8"))


def meant(name: str, side: str) -> tuple[str, ...]:
    """Return the methods that a name stands for on a side, in order: itself, unless a purpose."""
    return tuple(study()["names"][side][name]) if name in PURPOSES else (name,)


def check(kind: str, name: str, settings: Mapping[str, Any]) -> None:
    """Check a name and its options, and raise what `create` would raise for them."""
    known = _read()[kind]
    if kind == "method" and name in PURPOSES and not settings:
        return
    registry.check_name(kind, name, known)
    registry.read_settings(kind, name, known[name].options, settings)


def parse(text: str) -> tuple[str, dict[str, str]]:
    """Split a method and its options, `NAME:OPTION=VALUE,OPTION=VALUE`."""
    name, colon, rest = text.strip().partition(":")
    return name, _pairs(text, rest.split(",") if colon else [], "NAME:OPTION=VALUE,OPTION=VALUE")


def parse_metric(text: str) -> tuple[str, dict[str, str]]:
    """Split a metric and its options, `NAME:OPTION=VALUE:OPTION=VALUE`."""
    name, *pairs = text.split(":")
    return name, _pairs(text, pairs, "NAME:OPTION=VALUE")


def _pairs(text: str, pairs: list[str], form: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not (equals and key and value):
            raise InputError(f"got {shown(text)}, expected NAME or {form}")
        given[key] = value
    return given


def check_score(name: str) -> None:
    """Check that a score is called so; raise `UnknownName` if none is."""
    kind = name.partition(":")[0]
    if name not in SCORES and kind != "contrast":
        raise UnknownName("score", name, SCORES)


def chosen_methods(names: str, settings: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the methods of a comma list or of `all`, with those of the options that they have.

    Raises:
        InputError: no method, an unknown one, or an option that none of them has.
    """
    known = methods()
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if names == ALL:
        chosen = [name for name, listed in known.items() if "image" in listed.card["sides"]]
    if not chosen:
        raise InputError(f"got no method; try {PURPOSES[0]}, {PURPOSES[1]} or {ALL}")
    if settings:
        # Options are one method's own: a purpose then means its first method, on either side.
        chosen = [meant(name, "image")[0] for name in chosen]
    for name in chosen:
        check("method", name, settings if len(chosen) == 1 else {})
    # Each method takes the options that it has; an option that none has is an error.
    own = {
        n: {k: v for k, v in settings.items() if n not in PURPOSES and k in known[n].options}
        for n in chosen
    }
    for key in settings:
        if not any(key in taken for taken in own.values()):
            raise InputError(f"none of these methods has an option {key!r}; see heatproof methods")
    for name, taken in own.items():
        check("method", name, taken)
    return own
