"""Masks as data sets store them: run lengths, polygons, boxes, numbered pixels, turned pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, Shaped
from PIL import Image, ImageDraw

from heatproof.data.scenes.files import mask_of
from heatproof.errors import InputError
from heatproof.images import Frame, open_stored

FEW_IDS = 32
"""A mask of an object whose largest value is no larger, with several values, holds numbers."""


# --- COCO's segmentations ---------------------------------------------------------------------


def decoded(segmentation: Any, size: tuple[int, int]) -> Bool[np.ndarray, "row col"]:
    """Polygons (lists of x, y) on a canvas of `size` (height, width), or run lengths, plain or
    compressed. Polygons are drawn by Pillow, their outline included: up to a pixel wider at the
    rim than COCO's own programs draw them.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(segmentation, Mapping):
        return _lengths(segmentation)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
        kind = type(segmentation).__name__
        raise InputError(f"got a segmentation that is a {kind}, expected polygons or run lengths")
    canvas = Image.new("1", (size[1], size[0]))
    for polygon in segmentation:
        if len(polygon) >= 6:
            ImageDraw.Draw(canvas).polygon([float(x) for x in polygon], fill=1)
    return np.array(canvas, dtype=bool)


def _lengths(code: Mapping[str, Any]) -> Bool[np.ndarray, "row col"]:
    counts, size = code["counts"], (int(code["size"][0]), int(code["size"][1]))
    if isinstance(counts, str | bytes):
        counts = counts_of(counts)
    if min(counts, default=0) < 0 or sum(counts) != size[0] * size[1]:
        raise InputError(f"run lengths add up to {sum(counts)}, not to {size[0]} x {size[1]}")
    return mask_of([int(count) for count in counts], size)


def counts_of(text: str | bytes) -> list[int]:
    """The run lengths in COCO's compressed text.

    Each letter holds 5 bits of a number above code 48, the lowest first; bit 5 says that more
    follow, and the highest bit of the last is the sign. From the fourth on, a number is the
    difference from the run two before.
    """
    codes = text.encode("ascii", "replace") if isinstance(text, str) else text
    counts: list[int] = []
    value = shift = 0
    for code in codes:
        if not 48 <= code < 112:
            raise InputError(f"compressed run lengths hold the letter {chr(code)!r}")
        bits = code - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise InputError("compressed run lengths end within a number: the text is cut short")
    return counts


def boxed(
    boxes: Sequence[tuple[int, int, int, int]], size: tuple[int, int]
) -> Bool[np.ndarray, "row col"]:
    """All pixels in any of the boxes (left, top, right, bottom; the last two outside) on a canvas
    of `size` (height, width)."""
    mask = np.zeros(size, dtype=bool)
    for left, top, right, bottom in boxes:
        mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return mask


# --- pictures as masks ------------------------------------------------------------------------


def numbers(path: Path) -> Int64[np.ndarray, "row col"]:
    """The number of each pixel: a palette's index, or grey of 8, 16 or 32 bits, as stored.

    Raises:
        InputError: the picture is of colours.
    """
    image = open_stored(path)
    if image.mode not in ("1", "P", "L") and not image.mode.startswith("I"):
        raise InputError(
            f"{path}: a mask of colours (mode {image.mode}), expected one number a pixel: a "
            "palette, or grey of 8 or 16 bits"
        )
    return np.asarray(image).astype(np.int64)


def binary(path: Path) -> Bool[np.ndarray, "row col"]:
    """The pixels of an object: those over half of the mask's own largest value, so that masks of 0
    and 1, of 0 and 255 and of 16 bits all mean what they show; grey rims are cut at their middle.

    Raises:
        InputError: the mask holds several small numbers, as masks of many objects do.
    """
    image = open_stored(path)
    if image.mode in ("LA", "RGBA", "PA"):
        clear = image.convert("RGBA").getchannel("A")
        # An object cut out of its picture is where it is to be seen.
        image = clear if np.asarray(clear).min() < 255 else image.convert("L")
    plain = image.mode in ("1", "P", "L") or image.mode.startswith(("I", "F"))
    values = np.asarray(image if plain else image.convert("L"))
    found = np.unique(values)
    if len(found) > 2 and 1 < found[-1] <= FEW_IDS:
        some = ", ".join(f"{value:g}" for value in found[:6].tolist())
        raise InputError(
            f"{path}: a mask of the numbers {some}, expected that of one object; for masks that "
            "number classes put them in masks/ and name the classes in classes.txt"
        )
    top = found[-1] if len(found) else 0
    return values.astype(np.float64) > top / 2 if top > 0 else np.zeros(values.shape, dtype=bool)


def turned(mask: Shaped[np.ndarray, "row col"], orientation: int) -> np.ndarray:
    """(row, col) as a viewer shows it that follows EXIF's orientation (1 to 8)."""
    across = mask.T if orientation >= 5 else mask
    up_down, left_right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return across[:: -1 if up_down else 1, :: -1 if left_right else 1]


def fitted(
    mask: Shaped[np.ndarray, "row col"], frame: Frame, what: str, *, stored: bool = True
) -> np.ndarray:
    """The mask on the upright photograph.

    A mask that fits the picture's pixels as they are stored is turned with them; one that fits the
    upright picture is taken as it is. Where it fits both (squares, half turns), `stored` decides:
    public data sets are read without EXIF, hand-made masks are drawn on what a viewer shows.

    Raises:
        InputError: it fits neither.
    """
    size, upright = (mask.shape[1], mask.shape[0]), frame.upright
    if size == (frame.width, frame.height) and (stored or size != upright):
        return np.ascontiguousarray(turned(mask, frame.orientation))
    expect_size(size, frame, what)
    return mask


def expect_size(size: tuple[int, int], frame: Frame, what: str) -> None:
    """That (width, height) is the picture's, upright or as it is stored.

    Raises:
        InputError: it is neither.
    """
    upright = frame.upright
    if size not in (upright, (frame.width, frame.height)):
        raise InputError(
            f"{what} has {size[0]} x {size[1]} pixels, its picture {upright[0]} x {upright[1]}"
        )
