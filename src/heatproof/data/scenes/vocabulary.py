"""The four attributes an object has, and the combinations that training never shows."""

from __future__ import annotations

from typing import Final

SIZES: Final = ("small", "large")
TEXTURES: Final = ("plain", "striped", "dotted")
COLOURS: Final = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES: Final = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")

ATTRIBUTES: Final = ("size", "texture", "colour", "shape")
"""The order in which attributes are spoken, and that of the last axis of attribute tensors."""

WORDS: Final = (SIZES, TEXTURES, COLOURS, SHAPES)

# Each shape and each colour loses exactly one partner, so no single attribute becomes rare.
HELD_OUT: Final = tuple((shape, (3 * shape + 1) % len(COLOURS)) for shape in range(len(SHAPES)))
"""Pairs (shape, colour), as indices, that occur in no training image and no training caption."""

RELATIONS: Final = ("and", "left of", "right of", "above", "below")
INVERSE: Final = {
    "and": "and",
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}

CLEARANCE: Final = 0.08
"""Two centres must differ by this fraction of the image for a spatial relation to hold."""


def held_out(colour: int, shape: int) -> bool:
    """Return whether training never shows this colour with this shape."""
    return (shape, colour) in HELD_OUT
