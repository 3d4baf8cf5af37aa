"""Masks as data sets store them: run lengths, polygons, boxes, numbered pixels, turned images."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Shaped
from PIL import Image

from heatproof.data.polygons import filled, polygons_of
from heatproof.data.scenes.files import mask_of
from heatproof.errors import InputError
from heatproof.images import Frame, frame_of, open_stored

SMALL = 32
"""Numbers of classes or objects are at most so large; grey levels of one object seldom are."""
WHITE = (255, 65535)
"""The largest values of 8 and of 16 bits: white, or void beside numbers."""
MIDDLES = (127, 128)
RIM = 0.98
"""A soft mask reaches this share of white."""
FLAT = 8
"""An object cut out of an image has more colours."""
LOSS = 2
"""Levels between the channels of what was grey before a lossy file."""


# --- COCO's segmentations ---------------------------------------------------------------------


def decoded(segmentation: Any, size: tuple[int, int]) -> Bool[np.ndarray, "row col"]:
    """Decode polygons on a canvas of `size` (height, width), or run lengths, as COCO does.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(segmentation, Mapping):
        return _lengths(segmentation)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
        kind = type(segmentation).__name__
        raise InputError(f"got a segmentation that is a {kind}, expected polygons or run lengths")
    return filled(polygons_of(segmentation)[0], size)


def _lengths(code: Mapping[str, Any]) -> Bool[np.ndarray, "row col"]:
    counts, size = code["counts"], (int(code["size"][0]), int(code["size"][1]))
    if isinstance(counts, str | bytes):
        counts = counts_of(counts)
    if min(counts, default=0) < 0 or sum(counts) != size[0] * size[1]:
        raise InputError(f"run lengths add up to {sum(counts)}, not to {size[0]} x {size[1]}")
    return mask_of([int(count) for count in counts], size)


def counts_of(text: str | bytes) -> list[int]:
    """Return the run lengths in COCO's compressed text.

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
    """Return all pixels in any of the boxes (left, top, right, bottom; the last two outside) on a
    canvas of `size` (height, width)."""
    mask = np.zeros(size, dtype=bool)
    for left, top, right, bottom in boxes:
        mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return mask


# --- images as masks ------------------------------------------------------------------------


class Marked(NamedTuple):
    """The pixels of one object, and which pixels were judged (None: all)."""

    mask: Bool[np.ndarray, "row col"]
    judged: Bool[np.ndarray, "row col"] | None = None
    void: bool = False
    """Whether the largest value is void: in the same set it cannot be an object elsewhere."""
    white: bool = False
    """Whether the largest value of 8 or 16 bits is the object."""


def numbers(path: Path, names: Container[int] = ()) -> Int64[np.ndarray, "row col"]:
    """Return the number of each pixel: a palette's index, or grey of 8, 16 or 32 bits, as stored,
    turned as the file's own EXIF tag says.

    names: the numbers that mean something, to tell a palette that was made by a program.

    Raises:
        InputError: the image is of colours or of losses, or a palette's greys are numbers too.
    """
    image = open_stored(path)
    if image.mode not in ("1", "P", "L") and not image.mode.startswith("I"):
        raise InputError(
            f"{path}: a mask of colours (mode {image.mode}), expected one number per pixel: a "
            "palette, or grey of 8 or 16 bits"
        )
    if _is_jpeg(path):
        raise InputError(f"{path}: a JPEG, which changes numbers; expected a PNG of numbers")
    values = np.asarray(image).astype(np.int64)
    if image.mode == "P":
        used = np.unique(values)
        greys = _greys(_palette(image)[used])
        if greys is not None and _other_numbers(used, greys, names):
            raise InputError(
                f"{path}: a palette whose indices {_some(used)} have the greys {_some(greys)}: "
                "either may be the numbers of classes; save it as grey, without a palette"
            )
    return turned(values, frame_of(path).orientation)


def _other_numbers(
    used: np.ndarray, greys: Int64[np.ndarray, " colour"], names: Container[int]
) -> bool:
    """Return whether the greys of a palette can be read as numbers, other than the indices."""
    known = all(grey in names or grey == 0 or grey in WHITE for grey in greys.tolist())
    return not np.array_equal(used, greys) and (known or bool((np.diff(greys) < 0).any()))


def binary(path: Path) -> Marked:
    """Return the pixels of an object, by the values that the mask holds.

    | values | the object | not judged |
    |---|---|---|
    | 0 alone | none | |
    | white alone (1 bit, 255, 65535, 1.0) | everywhere | |
    | 0 and one other | that one | |
    | 0, a number up to 32, and 255 or 65535 | the number | the largest: void |
    | 0, 127 or 128, and 255 | 255 | the middle: a trimap |
    | 0 to white, mostly at the ends | over half | |

    Of a palette whose colours are greys, the greys are the values; of another, the indices. Of an
    image that is clear in part, the opacity. Of two colours, black is 0.

    Raises:
        InputError: the values can mean something else; one line.
    """
    marked = _object(_levels(path), path)
    orientation = frame_of(path).orientation
    judged = None if marked.judged is None else turned(marked.judged, orientation)
    return marked._replace(mask=turned(marked.mask, orientation), judged=judged)


def _is_jpeg(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(3) == b"\xff\xd8\xff"


def _levels(path: Path) -> Shaped[np.ndarray, "row col"]:
    image = open_stored(path)
    if image.mode == "1":
        return np.asarray(image).astype(np.int64) * WHITE[0]
    if image.mode in ("P", "L") and len(np.unique(np.asarray(image))) > 2:
        # Whichever value is clear: several are numbers.
        return _of_palette(image, path) if image.mode == "P" else np.asarray(image)
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA")).astype(np.int64)
        if pixels[..., 3].min() < WHITE[0]:
            return _opacity(pixels, path)
    if image.mode == "P":
        return _of_palette(image, path)
    if image.mode == "L" or image.mode.startswith(("I", "F")):
        return np.asarray(image)
    return _of_colours(np.asarray(image.convert("RGB")).astype(np.int64), path)


def _opacity(pixels: Int64[np.ndarray, "row col 4"], path: Path) -> Shaped[np.ndarray, "row col"]:
    """Return the mask of an object cut out of its image: where it is opaque."""
    colours, opacity = pixels[..., :3], pixels[..., 3]
    drawn = len(np.unique(colours[opacity > 0].reshape(-1, 3), axis=0))
    if not opacity.any() and len(np.unique(colours.reshape(-1, 3), axis=0)) > 1:
        raise InputError(
            f"{path}: clear everywhere, with colours under it; expected an object that is to be "
            "seen; save it without transparency, white on black"
        )
    if 1 < drawn <= FLAT:
        raise InputError(
            f"{path}: {drawn} colours and clear pixels; is the object one of the colours, or what "
            "is not clear? save it without transparency, white on black"
        )
    return opacity


def _of_palette(image: Image.Image, path: Path) -> Shaped[np.ndarray, "row col"]:
    indices = np.asarray(image).astype(np.int64)
    used, palette = np.unique(indices), _palette(image)
    greys = _greys(palette[used])
    if greys is None:
        light = palette[used].sum(1)
        if used[0] == 0 and light[0] > light.min():
            raise InputError(
                f"{path}: a palette whose index 0 is not its darkest colour; is index 0 the "
                "background, or is black? save the object white on black, without a palette"
            )
        return indices
    if 2 < len(used) <= SMALL and not np.array_equal(used, greys):
        raise InputError(
            f"{path}: a palette of the indices {_some(used)}, expected the mask of one object; "
            f"{NUMBERS}"
        )
    return np.interp(indices, used, greys).astype(np.int64)


def _of_colours(
    colours: Int64[np.ndarray, "row col 3"], path: Path
) -> Shaped[np.ndarray, "row col"]:
    if (colours.max(-1) - colours.min(-1)).max() <= LOSS:
        return colours.max(-1)
    kinds = np.unique(colours.reshape(-1, 3), axis=0)
    if len(kinds) == 2 and not kinds[0].any():
        return np.where(colours.any(-1), WHITE[0], 0)
    raise InputError(
        f"{path}: a mask of {len(kinds)} colours, expected one colour on black; save the object "
        "white on black"
    )


NUMBERS = (
    "for masks that number classes put them in masks/ and name the classes in classes.txt; for one "
    "object save it white (255) on black (0)"
)


def _object(values: Shaped[np.ndarray, "row col"], path: Path) -> Marked:
    if not np.isfinite(values).all() or (values < 0).any():
        raise InputError(f"{path}: a mask with values below 0 or not finite, expected 0 to white")
    levels = np.unique(values)
    top = float(levels[-1])
    if len(levels) == 1:
        if top and top not in (WHITE if values.dtype.kind != "f" else (1, *WHITE)):
            raise InputError(
                f"{path}: every pixel has the value {top:g}; is it object or background? save the "
                "object white (255) on black (0)"
            )
        return Marked(values > 0, white=top in WHITE)
    if len(levels) == 2 and levels[0] == 0:
        return Marked(values > 0, white=top in WHITE)
    if levels[0] == 0 and len(levels) == 3:
        middle = float(levels[1])
        if top in WHITE and middle <= SMALL and middle.is_integer():
            return Marked(values == middle, values != levels[-1], void=True)
        if top == WHITE[0] and middle in MIDDLES:
            return Marked(values == levels[-1], values != middle, white=True)
    if _is_soft(values, levels):
        return Marked(values.astype(np.float64) > top / 2, white=True)
    lacking = "" if levels[0] == 0 else " and no 0 (background)"
    raise InputError(
        f"{path}: a mask of the numbers {_some(levels)}{lacking}, expected the mask of one object; "
        f"{NUMBERS}"
    )


def _is_soft(values: Shaped[np.ndarray, "row col"], levels: np.ndarray) -> bool:
    """Return whether it is one object in white with a grey rim, not some numbers: it begins at
    black and reaches white, and most pixels are at these ends (else it may be an image). Small
    numbers below a single level of white may be classes beside void; so may one number alone."""
    top = float(levels[-1])
    low, high = top / 8, top * 7 / 8
    whites = WHITE if values.dtype.kind != "f" else (1, *WHITE)
    if not any(RIM * white <= top <= white for white in whites) or levels[0] > low:
        return False
    between = int(((values > low) & (values < high)).sum())
    if len(levels) > SMALL:
        return 2 * between < values.size
    beside_void = (levels > high).sum() == 1 and ((levels > 0) & (levels <= low)).any()
    return len(levels) > 3 and not beside_void and between < int((values >= high).sum())


def _palette(image: Image.Image) -> Int64[np.ndarray, "colour 3"]:
    """Return the colour of each of 256 indices; those that the palette lacks are black."""
    palette = np.zeros((256, 3), dtype=np.int64)
    colours = np.array(image.getpalette("RGB") or [], dtype=np.int64).reshape(-1, 3)
    palette[: len(colours)] = colours
    return palette


def _greys(colours: Int64[np.ndarray, "colour 3"]) -> Int64[np.ndarray, " colour"] | None:
    """Return the levels of colours that are all grey, else None."""
    return colours[:, 0] if (colours == colours[:, :1]).all() else None


def _some(values: np.ndarray) -> str:
    text = ", ".join(f"{value:g}" for value in values[:6].tolist())
    return text if len(values) <= 6 else f"{text}, ..."


def turned(mask: Shaped[np.ndarray, "row col"], orientation: int) -> np.ndarray:
    """Return (row, col) as a viewer shows it that follows EXIF's orientation (1 to 8)."""
    across = mask.T if orientation >= 5 else mask
    up_down, left_right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return across[:: -1 if up_down else 1, :: -1 if left_right else 1]


def fitted(
    mask: Shaped[np.ndarray, "row col"], frame: Frame, what: str, *, stored: bool = True
) -> np.ndarray:
    """Return the mask on the upright image.

    A mask that fits the image's pixels as they are stored is turned with them; one that fits the
    upright image is taken as it is. Where it fits both (squares, half turns), `stored` decides:
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
    """Check that (width, height) is the image's, upright or as it is stored.

    Raises:
        InputError: it is neither.
    """
    upright = frame.upright
    if size not in (upright, (frame.width, frame.height)):
        raise InputError(
            f"{what} has {size[0]} x {size[1]} pixels, its picture {upright[0]} x {upright[1]}"
        )
