"""Which class of a classifier a prompt means."""

from collections.abc import Sequence
from difflib import get_close_matches

import torch
from jaxtyping import Int
from torch import Tensor

from heatproof.errors import PromptError, UnknownName
from heatproof.models.model import Model

_MOST_LISTED = 20


def class_indices(model: Model, prompts: Sequence[str]) -> Int[Tensor, " prompt"]:
    """Return the class that each prompt means: its name, one of its names, or its index.

    Raises `UnknownName`, with the nearest names, and `PromptError` for an index out of range or a
    name that several classes have.
    """
    known = _by_name(model.classes)
    return torch.tensor([_index(model.classes, known, prompt) for prompt in prompts]).long()


def _by_name(classes: Sequence[str]) -> dict[str, list[int]]:
    """Return indices by name and by each name between commas, upper and lower case alike."""
    known: dict[str, list[int]] = {}
    for index, name in enumerate(classes):
        for synonym in {name, *name.split(",")}:
            known.setdefault(_plain(synonym), []).append(index)
    return known


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())


def _index(classes: Sequence[str], known: dict[str, list[int]], prompt: str) -> int:
    # A whole name wins over one of the names of another class.
    whole = [index for index, name in enumerate(classes) if _plain(name) == _plain(prompt)]
    found = whole if len(whole) == 1 else known.get(_plain(prompt), [])
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(f"{index} ({classes[index]})" for index in found)
        raise PromptError(f"{len(found)} classes are called {prompt!r}; give an index: {listed}")
    if prompt.strip().isdecimal():
        return _checked(int(prompt), len(classes))
    raise _unknown(classes, known, prompt)


def _checked(index: int, classes: int) -> int:
    if index >= classes:
        raise PromptError(f"got the class index {index}, expected 0 to {classes - 1}")
    return index


def _unknown(classes: Sequence[str], known: dict[str, list[int]], prompt: str) -> Exception:
    near = get_close_matches(_plain(prompt), list(known), n=3, cutoff=0.5)
    if near or len(classes) <= _MOST_LISTED:
        return UnknownName("class", _plain(prompt), known)
    return PromptError(
        f"unknown class {prompt!r}; expected an index from 0 to {len(classes) - 1}, or a class "
        f"name such as {classes[0].split(',')[0]!r}"
    )
