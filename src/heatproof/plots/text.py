"""Text on drawings: wrapped, shortened, drawn with Pillow's own font, whatever letters come."""

import math
from functools import cache

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Number = int | float


@cache
def font(size: int) -> Font:
    """Return Pillow's built-in font: no font files are looked for on the machine."""
    return ImageFont.load_default(size)


def one_line(text: str) -> str:
    """Return `text` on one line, without the control characters that a font stumbles over."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(shown.split())


def format_value(value: float, scale: float) -> str:
    """Format a signed value with the digits its scale needs: three significant ones at its end."""
    if not 1e-4 <= scale < 1e5:
        return f"{value:+.2e}"
    return f"{value:+.{max(0, 2 - math.floor(math.log10(scale)))}f}"


def text_width(text: str, size: int) -> float:
    """Return the pixels that `text` takes in one line."""
    try:
        return float(font(size).getlength(text))
    except UnicodeError:
        return float(font(size).getlength(_latin(text)))


def wrap(text: str, size: int, room: Number, lines: int) -> list[str]:
    """Break `text` into at most `lines` lines of `room` pixels; the last ends in an ellipsis."""
    words, done = one_line(text).split(" "), list[str]()
    while words and len(done) < lines - 1:
        line = words.pop(0)
        while words and text_width(f"{line} {words[0]}", size) <= room:
            line += f" {words.pop(0)}"
        done.append(shorten(line, size, room))
    return [*done, shorten(" ".join(words), size, room)] if words else done


def shorten(text: str, size: int, room: Number) -> str:
    """Cut `text` to one line of `room` pixels; an ellipsis replaces what does not fit."""
    if text_width(text, size) <= room:
        return text
    # Measuring is slow, and prompts may be long: search for the cut by halving.
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        fits = text_width(text[:middle].rstrip() + "…", size) <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low].rstrip() + "…"


def write(
    image: Image.Image,
    place: tuple[Number, Number],
    text: str,
    size: int,
    colour: str,
    anchor: str = "la",
) -> None:
    """Draw one line of text; letters that the font cannot draw become boxes, never errors."""
    draw = ImageDraw.Draw(image)
    try:
        draw.text(place, text, colour, font(size), anchor=anchor)
    except (UnicodeError, ValueError):  # Pillow built without FreeType: a Latin bitmap font
        draw.text(place, _latin(text), colour, font(size))


def _latin(text: str) -> str:
    return text.encode("latin-1", "replace").decode("latin-1")
