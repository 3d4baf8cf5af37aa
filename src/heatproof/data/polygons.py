"""Polygons as COCO's files have them, and the pixels that COCO's own program gives them.

That program (`rleFrPoly` of pycocotools) walks along the outline on a grid that is five times as
fine, and notes where the walk passes the middle of a column of pixels. Down the column, every such
place turns the inside on or off. Pillow's `ImageDraw.polygon` draws the outline as well and is up
to a pixel wider. `filled` follows the same steps with NumPy and agrees with pycocotools to the
pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from heatproof.errors import InputError

FINER = 5
"""Steps of the walk per pixel."""
MIDDLE = 2
"""The middle of a pixel, in steps."""
FEWEST = 3
"""Points of a polygon."""
Points = Float64[np.ndarray, "_ 2"]
"""x and y of each point."""


def polygons_of(segmentation: Sequence[Any]) -> tuple[list[Points], int]:
    """Return the polygons of a segmentation, and how many of its parts have no area (one or two
    points).

    COCO writes a list of polygons, each `[x1, y1, x2, y2, x3, y3, ...]` in pixels. Also read are
    a polygon alone and points that are pairs, `[[x1, y1], [x2, y2], ...]`: they can mean nothing
    else.

    Raises:
        InputError: no part is a polygon, a coordinate is no number, or all lie within 0 and 1.
    """
    parts = [segmentation] if _is_outline(segmentation) else list(segmentation)
    points = [_points(part) for part in parts]
    # One or two points have no area; COCO has such parts, and its program gives them no pixel.
    polygons = [each for each in points if len(each) >= FEWEST]
    if not polygons:
        most = max((len(each) for each in points), default=0)
        raise InputError(
            f"got polygons of at most {most} points, expected three or more: [x1, y1, x2, y2, x3, "
            "y3, ...] in pixels"
        )
    # Shares of the image look like a polygon of one pixel: refused, since they mean another thing.
    if min(float(each.min()) for each in polygons) >= 0 and _largest(polygons) <= 1:
        raise InputError(
            f"got a polygon with coordinates from 0 to {_largest(polygons):g}, expected pixels; "
            "multiply shares of the image by its width and height"
        )
    return polygons, len(points) - len(polygons)


def _largest(polygons: list[Points]) -> float:
    return max(float(each.max()) for each in polygons)


def _is_outline(part: Any) -> bool:
    """Return whether this is a polygon by itself: numbers, or pairs of numbers."""
    if not isinstance(part, Sequence) or isinstance(part, str) or not part:
        return False
    return all(_is_number(x) for x in part) or (
        all(isinstance(x, Sequence) and not isinstance(x, str) and len(x) == 2 for x in part)
        and all(_is_number(y) for x in part for y in x)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _points(part: Any) -> Points:
    if isinstance(part, Sequence) and not part:
        return np.zeros((0, 2))
    if not _is_outline(part):
        raise InputError(
            f"got {_short(part)} in a polygon, expected numbers: [x1, y1, x2, y2, x3, y3, ...]"
        )
    # `_is_outline` has checked that all are numbers or all are pairs.
    pairs = not _is_number(part[0])
    numbers = [float(x) for each in part for x in each] if pairs else [float(x) for x in part]
    if len(numbers) % 2:
        raise InputError(
            f"got a polygon of {len(numbers)} numbers, expected an even count: x and y of each "
            "point"
        )
    if not all(math.isfinite(x) for x in numbers):
        raise InputError("got a polygon with a coordinate that is not finite, expected pixels")
    return np.array(numbers, dtype=np.float64).reshape(-1, 2)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def box_polygon(box: Any) -> Points:
    """Return the outline of COCO's box [left, top, width, height], in pixels.

    Raises:
        InputError: it is none.
    """
    if not (isinstance(box, Sequence) and len(box) == 4 and all(map(_is_number, box))):
        raise InputError(f"got the box {_short(box)}, expected [left, top, width, height]")
    left, top, width, height = (float(x) for x in box)
    if not all(map(math.isfinite, (left, top, width, height))) or width <= 0 or height <= 0:
        raise InputError(
            f"got the box {_short(box)}, expected [left, top, width, height] with an area"
        )
    if max(left + width, top + height) <= 1 and min(left, top) >= 0:
        raise InputError(f"got the box {_short(box)} with shares of the image, expected pixels")
    right, bottom = left + width, top + height
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def overhang(polygons: Sequence[Points], size: tuple[int, int]) -> float:
    """Return how far the polygons reach out of an image of `size` (height, width), in pixels.

    Raises:
        InputError: one lies outside of the image, or reaches out by more than the image's length:
            its coordinates are of another image, or of the same at another size.
    """
    height, width = size
    furthest = 0.0
    for points in polygons:
        (left, top), (right, bottom) = points.min(0), points.max(0)
        beyond = max(-left, -top, right - width, bottom - height)
        outside = right <= 0 or bottom <= 0 or left >= width or top >= height
        if outside or beyond > max(width, height):
            raise InputError(
                f"got a polygon from ({left:g}, {top:g}) to ({right:g}, {bottom:g}), expected it "
                f"in its image of {width} x {height} pixels"
            )
        furthest = max(furthest, float(beyond))
    return furthest


def filled(polygons: Sequence[Points], size: tuple[int, int]) -> Bool[np.ndarray, "row col"]:
    """Return the pixels in any of the polygons, on a canvas of `size` (height, width); what lies
    outside of it is cut off. Where a polygon overlaps itself, inside and outside alternate."""
    mask = np.zeros(size, dtype=bool)
    for points in polygons:
        mask |= _inside(points, *size)
    return mask


def _inside(points: Points, height: int, width: int) -> Bool[np.ndarray, "row col"]:
    x, y = _walk(np.trunc(FINER * points + 0.5).astype(np.int64))
    moved = x[1:] != x[:-1]
    x, y = np.minimum(x[1:], x[:-1])[moved], np.minimum(y[1:], y[:-1])[moved]
    col = (x - MIDDLE) // FINER
    here = ((x - MIDDLE) % FINER == 0) & (col >= 0) & (col < width)
    # The first row whose middle is not above the place; the end of a column begins the next.
    row = (-((MIDDLE - y) // FINER)).clip(0, height)
    turns = np.bincount((col * height + row)[here], minlength=height * width + 1)
    return (np.cumsum(turns[:-1]) % 2 == 1).reshape(width, height).T


def _walk(
    corners: Int64[np.ndarray, "point 2"],
) -> tuple[Int64[np.ndarray, " step"], Int64[np.ndarray, " step"]]:
    """Return x and y of all steps along the closed outline, one after another.

    Along its longer axis an edge takes one step at a time; the shorter one is rounded. Edges are
    walked from the lower end of the longer axis, so that an edge is the same both ways.
    """
    start, end = corners, np.roll(corners, -1, axis=0)
    start, end = start[(start != end).any(1)], end[(start != end).any(1)]
    length = np.abs(end - start)
    flat = length[:, 0] >= length[:, 1]
    longer = np.where(flat, 0, 1)
    edges = np.arange(len(start))
    back = start[edges, longer] > end[edges, longer]
    low, high = np.where(back[:, None], end, start), np.where(back[:, None], start, end)
    steps = length.max(1, initial=0)
    slope = (high - low)[edges, 1 - longer] / np.maximum(steps, 1)
    edge = np.repeat(edges, steps + 1)
    number = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - (steps + 1), steps + 1)
    number = np.where(back[edge], steps[edge] - number, number)
    along = low[edge, longer[edge]] + number
    across = np.trunc(low[edge, 1 - longer[edge]] + slope[edge] * number + 0.5).astype(np.int64)
    return np.where(flat[edge], along, across), np.where(flat[edge], across, along)
