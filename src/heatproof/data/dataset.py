"""ImageInputs with objects whose place and name are known: what maps are held against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool
from PIL import Image

from heatproof.data.lazy import chosen
from heatproof.data.left_out import LeftOut
from heatproof.errors import InputError

if TYPE_CHECKING:
    Photos = Sequence[Image.Image]
    Things = Sequence[tuple["Instance", ...]]
    Removed = Sequence[tuple[Image.Image, ...]]
else:  # a checked item is an image opened, at random: the check of types is of the sequence alone
    Photos = Things = Removed = Sequence


@dataclass(frozen=True)
class Instance:
    """One object: which prompt names it, and its mask in pixels of the upright image.

    `judged` marks the pixels that anybody has judged, and holds all of `mask`: a map is held
    against the mask there alone (points that were clicked; not the void outlines of VOC, nor a
    crowd of the object's kind). None where every pixel was judged.

    Raises:
        InputError: the masks are not two-dimensional arrays of truth values of one shape. (0 and 1
            as numbers would be inverted wrongly.)
    """

    label: int
    mask: Bool[np.ndarray, "row col"]
    judged: Bool[np.ndarray, "row col"] | None = None

    def __post_init__(self) -> None:
        for name, array in (("mask", self.mask), ("judged", self.judged)):
            if array is None:
                continue
            kind, shape = getattr(array, "dtype", type(array).__name__), np.shape(array)
            if kind != np.bool_ or len(shape) != 2 or shape != np.shape(self.mask):
                raise InputError(
                    f"got a {name} of {kind}, shape {shape}, expected truth values (row, col); "
                    "try mask > 0"
                )

    @property
    def size(self) -> float:
        """Return the share of the image that it covers."""
        return float(self.mask.mean())


EMPTY = "objects without a pixel (empty masks, or covered from sight)"


def visible(things: Iterable[Instance], left_out: LeftOut, image: str) -> tuple[Instance, ...]:
    """Return the things that have a pixel: one that is covered from sight is not there to be found.

    Others are counted under the image's name.
    """
    numbered = list(enumerate(things, 1))
    left_out.add(EMPTY, (f"{image}, object {n}" for n, one in numbered if not one.mask.any()))
    return tuple(thing for _, thing in numbered if thing.mask.any())


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledImages:
    """Images, their objects, and the prompts that name objects.

    photos, things: any sequences of the same length, often `Lazy`: items are opened anew each time
        they are indexed, so whoever needs one twice keeps it. An image may have no thing.
    prompts: `prompts[thing.label]` names a thing.
    seed: where chance entered.
    complete: whether all objects that a prompt could name are listed, so that a prompt that names
        no thing of an image is false of it. Phrases and points are not complete: there, no
        prompt may be called absent because it is not listed.
    absent: for a set that is not complete, the labels that are known to name nothing in each
        image. None: nothing is known to be absent.
    left_out: what the set has and these sequences do not; it grows as masks are opened.
    without: per image, the same image without each of its things, in their order, where the set
        can make it exactly (rendered scenes can). None: it would have to be inpainted.
    """

    name: str
    photos: Photos
    things: Things
    prompts: tuple[str, ...]
    seed: int = 0
    complete: bool = True
    absent: Sequence[frozenset[int]] | None = None
    left_out: LeftOut = field(default_factory=LeftOut)
    without: Removed | None = None

    @property
    def notices(self) -> tuple[str, ...]:
        """Return what was left out so far, counted, and what else the user must know of the set."""
        return self.left_out.lines

    def __len__(self) -> int:
        return len(self.photos)

    def first(self, count: int | None) -> LabelledImages:
        """Return the first `count` images (all of them where there are fewer)."""
        if count is None or count >= len(self):
            return self
        return self.chosen(range(count))

    def chosen(self, indices: Sequence[int]) -> LabelledImages:
        """Return the images at these indices; prompts and labels stay as they are."""
        absent = None if self.absent is None else chosen(self.absent, indices)
        without = None if self.without is None else chosen(self.without, indices)
        return replace(
            self,
            photos=chosen(self.photos, indices),
            things=chosen(self.things, indices),
            absent=absent,
            without=without,
        )

    def held(self) -> LabelledImages:
        """Return the same in memory, each image and mask opened once, so that each fault shows
        now."""
        return replace(self, photos=tuple(self.photos), things=tuple(self.things))
