"""The one colour map: signed values over a grey photo, evenly to the eye, zero invisible.

An image is blended, in OKLab, from the grey photo (value 0) towards one of two colours of
equal lightness and equal chroma: vermilion for values that raise the score, azure for values that
lower it. A path that is straight and evenly paced in OKLab has the same colour difference for the
same difference of values: everywhere on the scale, for both signs, on every grey. The hues
stay apart under the three kinds of colour blindness. The photo is grey, so that all colour in an
overlay is the map's.

OKLab: Ottosson, "A perceptual color space for image processing", 2020.
"""

from functools import cache

import numpy as np
from jaxtyping import Float, Int16, UInt8
from PIL import Image

from heatproof.display import GREY, STRENGTH, Display

LIGHTNESS, CHROMA = 0.62, 0.18
RAISES_HUE, LOWERS_HUE = 40.0, 255.0  # degrees in OKLab's a, b plane
DARKEST, LIGHTEST = 0.50, 0.97  # OKLab lightness of the photo's black and white
STEPS = 255  # of each sign

NAME = "vermilion-azure (OKLab, straight and even, 0 invisible)"

_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def oklab(rgb: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Convert sRGB in 0..1 to OKLab."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _LMS.T) @ _LAB.T


def srgb(lab: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Convert OKLab to sRGB in 0..1, cut to what a screen can show."""
    linear = (lab @ np.linalg.inv(_LAB).T) ** 3 @ np.linalg.inv(_LMS).T
    return srgb_of(np.clip(linear, 0.0, 1.0))


def srgb_of(linear: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Convert linear light to sRGB, both in 0..1."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@cache
def table(strength: float = STRENGTH) -> UInt8[np.ndarray, "shade value 3"]:
    """Return the colour of each value (-STEPS..STEPS) over each grey (0..255) of the photo."""
    grey = oklab(np.repeat(np.arange(256)[:, None] / 255, 3, axis=1))
    base = np.zeros((256, 1, 3))
    base[:, 0, 0] = DARKEST + (LIGHTEST - DARKEST) * grey[:, 0]
    return _blended(base, strength)


@cache
def table_on_white() -> UInt8[np.ndarray, "value 3"]:
    """Return the colour of each value (-STEPS..STEPS) over paper white."""
    return _blended(np.array([[[1.0, 0.0, 0.0]]]))[0]


def _blended(
    base: Float[np.ndarray, "shade 1 3"], strength: float = STRENGTH
) -> UInt8[np.ndarray, "shade value 3"]:
    values = np.arange(-STEPS, STEPS + 1) / STEPS
    ends = np.where(values[:, None] < 0, _end(LOWERS_HUE), _end(RAISES_HUE))
    # Straight and evenly paced in OKLab: the same difference of values looks the same everywhere.
    share = strength * np.abs(values)[:, None]
    mixed = (1 - share) * base + share * ends
    return np.rint(srgb(mixed) * 255).astype(np.uint8)


def _end(hue: float) -> Float[np.ndarray, "3"]:
    angle = np.deg2rad(hue)
    return np.array([LIGHTNESS, CHROMA * np.cos(angle), CHROMA * np.sin(angle)])


def steps(values: Float[np.ndarray, "*batch"], scale: float) -> np.ndarray:
    """Convert values to indices of the tables: -scale is 0, zero is STEPS; beyond is the end."""
    # All values are zero, or none is a number: nothing is coloured.
    if scale <= 0 or not np.isfinite(scale):
        return np.full(values.shape, STEPS, np.int16)
    share = np.clip(np.nan_to_num(values / scale), -1.0, 1.0)
    return (np.rint(share * STEPS) + STEPS).astype(np.int16)


def paint(
    photo: Image.Image,
    values: Float[np.ndarray, "height width"],
    scale: float,
    display: Display = GREY,
) -> Image.Image:
    """Paint `values`, one per pixel, over the photo, on a scale from -`scale` to `scale`."""
    at = steps(values, scale)
    if display.background == "gray":
        return Image.fromarray(table(display.alpha)[np.asarray(photo.convert("L")), at])
    # Row by row: a large photo in OKLab takes many times the memory of its pixels.
    rows = zip(np.asarray(photo.convert("RGB")), at, strict=True)
    return Image.fromarray(np.stack([_over_colour(row, own, display.alpha) for row, own in rows]))


def _over_colour(
    pixels: UInt8[np.ndarray, "width 3"], at: Int16[np.ndarray, " width"], strength: float
) -> UInt8[np.ndarray, "width 3"]:
    """Return the photo's own colours, blended towards the end of the scale as over grey."""
    values = (at[:, None] - STEPS) / STEPS
    share = strength * np.abs(values)
    ends = np.where(values < 0, _end(LOWERS_HUE), _end(RAISES_HUE))
    mixed = srgb((1 - share) * oklab(pixels / 255) + share * ends)
    # What the map leaves alone stays the photo's, to the bit.
    return np.where(share == 0, pixels, np.rint(mixed * 255)).astype(np.uint8)


def css(value: float, scale: float) -> str:
    """Return the colour of a value over white, as CSS and Pillow write it."""
    red, green, blue = table_on_white()[steps(np.array([value]), scale)[0]]
    return f"#{red:02x}{green:02x}{blue:02x}"


def bar(width: int, height: int, on_white: bool = False, strength: float = STRENGTH) -> Image.Image:
    """Draw the scale from its negative to its positive end: over every grey, or over white."""
    shades = np.rint(np.linspace(255, 0, height)).astype(np.uint8)
    values = np.rint(np.linspace(0, 2 * STEPS, width)).astype(np.int16)
    if on_white:
        return Image.fromarray(np.tile(table_on_white()[values], (height, 1, 1)))
    return Image.fromarray(table(strength)[shades[:, None], values[None, :]])
