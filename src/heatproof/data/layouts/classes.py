"""What classes are called, and which of a set's "classes" are none.

Annotation tools write a class for what is no object (labelme: `__ignore__` and `_background_`).
As a prompt it would count as absent everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from heatproof.data.layouts.reading import LayoutError, text_of
from heatproof.data.left_out import LeftOut

BACKGROUND = frozenset({"background", "bg"})
VOID = frozenset({"ignore", "ignored", "void", "unlabeled", "unlabelled", "dontcare"})
NUMBERED = re.compile(r"^(-?\d+)\s*(?:[:,;=.)\t]\s*|\s+)(\S.*)$")
"""0: background"""
SIGNED = re.compile(r"^-?\d+\s*[:,;=]")
"""A line that numbers its class for certain ("3 wheeler" may be a name)."""
Key = TypeVar("Key", bound=Hashable)
Role = Literal["object", "background", "void"]


def role_of(name: str) -> Role:
    """Return whether a class of this name is objects, what is behind them, or what nobody
    judged."""
    # Case, underscores and punctuation do not matter: `__Background__` is background.
    core = re.sub(r"[\W_]+", "", name.casefold())
    return "background" if core in BACKGROUND else "void" if core in VOID else "object"


@dataclass(frozen=True)
class Classes(Generic[Key]):
    """Prompts, each once; the label of each class by its key; which keys are no objects."""

    prompts: tuple[str, ...]
    labels: dict[Key, int]
    roles: dict[Key, Role]

    @classmethod
    def of(cls, names: Mapping[Key, str], template: str, left_out: LeftOut) -> Classes[Key]:
        """Make one class of each name. An underscore in a name is read as a space.

        Raises:
            LayoutError: a class has no name, or none of them is of objects.
        """
        roles: dict[Key, Role] = {key: role_of(name) for key, name in names.items()}
        prompts: dict[str, int] = {}
        labels: dict[Key, int] = {}
        for key, name in names.items():
            words = " ".join(name.replace("_", " ").split())
            if not words:
                raise LayoutError(f"got the class {key} without a name, expected one")
            if roles[key] == "object":
                # Two classes of one name share a prompt: no text could tell them apart.
                labels[key] = prompts.setdefault(template.format(words), len(prompts))
        others = [name for key, name in names.items() if roles[key] != "object"]
        if not labels and others:
            raise LayoutError(f"got no class of objects, only {', '.join(others)}")
        left_out.add("classes that are no objects, and no prompts", others)
        return cls(tuple(prompts), labels, roles)


def numbered_names(path: Path) -> dict[int, str]:
    """Return the class of each number in masks, from a text file of a name per line.

    Lines such as `3: cat` say their numbers. Else lines are numbered from 1, or from 0 where the
    first is the background. labelme's `__ignore__` before it is number -1, which labelme saves as
    255: no pixel has it here.

    Raises:
        LayoutError: it is not clear which number a name has; one line.
    """
    lines = [line.strip() for line in text_of(path).splitlines()]
    # Empty lines at the end are an editor's, not classes.
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise LayoutError(f"{path} names no class, expected a name per line")
    if "" in lines:
        raise LayoutError(
            f"{path}: line {lines.index('') + 1} is empty, expected a name per line: is it a class "
            "without a name, or no class?"
        )
    split = [NUMBERED.match(line) for line in lines]
    certain = [n for n, line in enumerate(lines) if SIGNED.match(line)]
    # Every line begins with a number, so the numbers are meant.
    if all(split):
        return _said(path, [(int(each[1]), each[2]) for each in split if each])
    if certain:
        other = next(n for n, each in enumerate(split) if not each)
        raise LayoutError(
            f"{path}: line {certain[0] + 1} ({lines[certain[0]][:40]!r}) has a number and line "
            f"{other + 1} ({lines[other][:40]!r}) has none; expected one on every line, or on none"
        )
    return _counted(path, lines)


def _said(path: Path, pairs: list[tuple[int, str]]) -> dict[int, str]:
    names = dict(pairs)
    numbers = [number for number, _ in pairs]
    if len(names) < len(pairs):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise LayoutError(f"{path} names the class of number {twice} more than once")
    if role_of(names.get(0, "background")) == "object":
        raise LayoutError(
            f"{path}: number 0 is {names[0][:40]!r}, but 0 is the background in masks; number the "
            "classes from 1, in the masks too"
        )
    return names


def _counted(path: Path, lines: list[str]) -> dict[int, str]:
    roles = [role_of(line) for line in lines]
    # labelme's own order: its void is saved as 255.
    if roles[:2] == ["void", "background"]:
        return dict(enumerate(lines, -1))
    if roles[0] == "background":
        return dict(enumerate(lines))
    if roles[0] == "void":
        raise LayoutError(
            f"{path}: line 1 is {lines[0]!r}, and it is not clear whether its number is 0 or 1; "
            f"write the numbers: '1: {lines[1] if len(lines) > 1 else 'name'}'"
        )
    return dict(enumerate(lines, 1))
