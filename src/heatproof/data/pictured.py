"""Pictures with objects whose place and name are known: what maps are held against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool
from PIL import Image

from heatproof.data.lazy import chosen

if TYPE_CHECKING:
    Photos = Sequence[Image.Image]
    Things = Sequence[tuple["Thing", ...]]
else:  # a checked item is a picture opened, at random: the check of types is of the sequence alone
    Photos = Things = Sequence


@dataclass(frozen=True)
class Thing:
    """One object: which prompt names it, and its mask in pixels of the upright photograph.

    `judged` marks the pixels that anybody has judged, and holds all of `mask`: a map is held
    against the mask there alone (points that were clicked; not the void outlines of VOC, nor a
    crowd of the object's kind). None where every pixel was judged.
    """

    label: int
    mask: Bool[np.ndarray, "row col"]
    judged: Bool[np.ndarray, "row col"] | None = None

    @property
    def size(self) -> float:
        """The share of the picture that it covers."""
        return float(self.mask.mean())


def visible(things: Iterable[Thing]) -> tuple[Thing, ...]:
    """The things that have a pixel: one that is covered from sight is not there to be found."""
    return tuple(thing for thing in things if thing.mask.any())


@dataclass(frozen=True, eq=False)
class Pictured:
    """Photographs, their objects, and the prompts that name objects.

    photos, things: any sequences of the same length, often `Lazy`: items are opened anew each time
        they are indexed, so whoever needs one twice keeps it. A picture may have no thing.
    prompts: `prompts[thing.label]` names a thing.
    seed: where chance entered.
    complete: whether all objects that a prompt could name are listed, so that a prompt that names
        no thing of a photograph is false of it. Phrases and points are not complete: there, no
        prompt may be called absent because it is not listed.
    """

    name: str
    photos: Photos
    things: Things
    prompts: tuple[str, ...]
    seed: int = 0
    complete: bool = True

    def __len__(self) -> int:
        return len(self.photos)

    def first(self, count: int | None) -> Pictured:
        """The first `count` photographs (all of them where there are fewer)."""
        if count is None or count >= len(self):
            return self
        return self.chosen(range(count))

    def chosen(self, indices: Sequence[int]) -> Pictured:
        """The photographs at these indices; prompts and labels stay as they are."""
        return replace(
            self, photos=chosen(self.photos, indices), things=chosen(self.things, indices)
        )

    def held(self) -> Pictured:
        """The same in memory, each picture and mask opened once, so that each fault shows now."""
        return replace(self, photos=tuple(self.photos), things=tuple(self.things))


def load(folder: str | Path, *, template: str = "a {}", most: int | None = None) -> Pictured:
    """The first `most` photographs of a folder in COCO's layout that show an object, in memory.

    The folder is one that `heatproof scenes render` writes: `instances.json` beside `images/`.
    `template` makes a prompt of a name. `heatproof.data.open` opens this and more without holding
    it in memory.

    Raises:
        InputError: the folder is not laid out so, or its files do not fit each other.
    """
    from heatproof.data.layouts.folder import annotated  # the layouts make what this file defines

    return annotated(Path(folder), template=template).first(most).held()
