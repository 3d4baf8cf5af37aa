"""The catalogues' names, cards and options as plain values: what can be checked without torch.

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
ALL = "all"
EXPERIMENTS = ("a", "b", "c", "d", "e")
"""Of `heatproof reproduce`."""
SCORES = ("cosine", "logit", "margin", "contrast:OTHER", "sigmoid-logit", "class-logit")


@dataclass(frozen=True)
class Listed:
    """A class of a catalogue: the fields of its card, and its options by name."""

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
    """Every method by name."""
    return dict(_read()["method"])


def metrics() -> dict[str, Listed]:
    """Every metric by name."""
    return dict(_read()["metric"])


def check(kind: str, name: str, settings: Mapping[str, Any]) -> None:
    """Raise what `methods.create` (or `metrics.create`) would raise for a name and its options."""
    known = _read()[kind]
    registry.check_name(kind, name, known)
    registry.read_settings(kind, name, known[name].options, settings)


def parse(text: str) -> tuple[str, dict[str, str]]:
    """A method with its options, `NAME:OPTION=VALUE,OPTION=VALUE`."""
    name, colon, rest = text.strip().partition(":")
    return name, _pairs(text, rest.split(",") if colon else [], "NAME:OPTION=VALUE,OPTION=VALUE")


def parse_metric(text: str) -> tuple[str, dict[str, str]]:
    """A metric with its options, `NAME:OPTION=VALUE:OPTION=VALUE`."""
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
    """Raise `UnknownName` where no score is called so."""
    kind = name.partition(":")[0]
    if name not in SCORES and kind != "contrast":
        raise UnknownName("score", name, SCORES)


def chosen_methods(names: str, settings: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The methods of a comma list or of `all`, each with those of the options that it has.

    Raises:
        InputError: no method, an unknown one, or an option that none of them has.
    """
    known = methods()
    asked = [name.strip() for name in names.split(",") if name.strip()]
    if names == ALL:
        asked = [name for name, each in known.items() if "image" in each.card["sides"]]
    if not asked:
        raise InputError(f"got no method; try attention-x-gradient, or {ALL}")
    for name in asked:
        check("method", name, settings if len(asked) == 1 else {})
    own = {n: {k: v for k, v in settings.items() if k in known[n].options} for n in asked}
    for key in settings:
        if not any(key in each for each in own.values()):
            raise InputError(f"none of these methods has an option {key!r}; see heatproof methods")
    for name, each in own.items():
        check("method", name, each)
    return own
