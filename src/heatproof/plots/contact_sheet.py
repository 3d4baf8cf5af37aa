"""Maps side by side: one row per explanation, one panel per prompt, one scale per row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from heatproof.certificate import Certificate
from heatproof.display import GREY, Display
from heatproof.image_maps import NO_PROMPT, NOTICED, ImageMaps
from heatproof.images import Photo
from heatproof.models.geometry import PhotoView
from heatproof.plots.lights import (
    FAINT,
    HEADLINES,
    INK,
    KIND_COLOURS,
    PAPER,
    LightsLayout,
    band_sentence,
    draw_band,
)
from heatproof.plots.overlay import Signs, Viewport, draw, draw_photo, draw_scale, viewport_of
from heatproof.plots.text import one_line, shorten, text_width, wrap, write

SIDE = 300  # pixels of a panel's longer side
SIZE = 15  # of the letters
LINE = 22  # pixels from a line of a title to the next
GAP = 18
INPUT = "input"  # the title of the image itself: it may be a photo, a rendering, a drawing
UNKNOWN = " · unknown words"
UNSURE = " · thin lines: sign unsure"


@dataclass(frozen=True)
class Panel:
    """One map, what was asked, and a remark beneath it (its score).

    unsure: patches whose sign is not established, where that is known.
    """

    title: str
    remark: str
    values: Float[np.ndarray, "row col"]
    unsure: Bool[np.ndarray, "row col"] | None = None


@dataclass(frozen=True)
class SheetRow:
    """Panels that share a scale, the words at its ends, and their certificate."""

    name: str
    panels: tuple[Panel, ...]
    scale: float
    certificate: Certificate
    signs: Signs
    display: Display = GREY


def sheet_row(maps: ImageMaps, controls: Sequence[Panel] = ()) -> SheetRow:
    """Return the maps of one image, prompt by prompt, and controls, on one scale for all."""
    record = maps.record
    silent = maps.certificate.says_nothing
    unsure = "" if maps.errors is None else UNSURE
    panels = tuple(
        Panel(
            prompt or NO_PROMPT,
            maps.score_text(number) + (UNKNOWN if prompt in silent else "") + unsure,
            maps.values(number),
            maps.unsure(number),
        )
        for number, prompt in enumerate(record.prompts)
    )
    # A control that is louder than every map sets the scale: else it would look as weak as they.
    scale = max([maps.scale, *(float(np.abs(panel.values).max()) for panel in controls)])
    shown = (*panels, *controls)
    return SheetRow(record.method, shown, scale, maps.certificate, record.signs, maps.display)


def strip(maps: ImageMaps, controls: Sequence[Panel] = ()) -> Image.Image:
    """Draw one image's maps, and controls, side by side on their shared scale."""
    return sheet(maps.photo, maps.view, [sheet_row(maps, controls)])


def sheet(photo: Photo, view: PhotoView, rows: list[SheetRow]) -> Image.Image:
    """Draw the photo and a row's maps, row below row; rows differ in units and so in scale."""
    viewport = viewport_of(photo, view).fit(SIDE)
    columns = 1 + max(len(row.panels) for row in rows)
    width = GAP + columns * (_panel_width(viewport) + GAP)
    strips = [_draw_row(photo, view, viewport, row, width) for row in rows]
    image = Image.new("RGB", (width, sum(strip.height for strip in strips)), PAPER)
    y = 0
    for strip in strips:
        image.paste(strip, (0, y))
        y += strip.height
    return image


def _panel_width(viewport: Viewport) -> int:
    """Return a panel's width: an upright photo is narrow, and its title needs room."""
    return max(viewport.width, SIDE * 2 // 3)


def _draw_row(
    photo: Photo, view: PhotoView, viewport: Viewport, row: SheetRow, width: int
) -> Image.Image:
    room = _panel_width(viewport)
    sentence = band_sentence(row.certificate)
    lines = wrap(sentence, SIZE, width - 2 * GAP - 2 * SIZE, 5) if sentence else []
    lights = LightsLayout(row.certificate.lights, SIZE, width - 2 * GAP)
    titles = [[INPUT], *(wrap(panel.title, SIZE, room, 2) for panel in row.panels)]
    above = GAP + LINE * max(len(title) for title in titles)
    footer = above + viewport.height + 8 + LINE + GAP
    band_height = (round(1.5 * SIZE) * len(lines) + SIZE + GAP) if lines else 0
    under = footer + 2 * SIZE + GAP
    image = Image.new("RGB", (width, under + lights.height + GAP + band_height), PAPER)
    drawings = [draw_photo(photo, view, viewport)]
    drawings += [
        draw(photo, view, panel.values, row.scale, viewport, panel.unsure, row.display)
        for panel in row.panels
    ]
    cropped = f"{view.unseen:.0%} unseen (hatched)" if view.unseen >= NOTICED else "nothing cropped"
    remarks = [cropped, *(panel.remark for panel in row.panels)]
    for number, (drawing, title, remark) in enumerate(zip(drawings, titles, remarks, strict=True)):
        x = GAP + number * (room + GAP)
        for line, text in enumerate(reversed(title)):
            place = (x, above - LINE * (line + 1))
            write(image, place, text, SIZE, INK if number else FAINT)
        image.paste(drawing, (x, above))
        write(image, (x, above + viewport.height + 6), shorten(remark, SIZE, room), SIZE, FAINT)
    _draw_footer(image, footer, row)
    lights.draw(image, GAP, under)
    if lines:
        draw_band(image, under + lights.height + GAP, lines, SIZE, row.certificate.kind)
    return image


def _draw_footer(image: Image.Image, y: int, row: SheetRow) -> None:
    """Write method and verdict on the left, and draw the shared scale beneath the maps."""
    kind = row.certificate.kind
    name = shorten(one_line(row.name), SIZE, SIDE - GAP)
    headline = HEADLINES[kind]
    write(image, (GAP, y - 2), name, SIZE, INK)
    write(image, (GAP, y + 18), headline, SIZE, KIND_COLOURS[kind])
    widest = max(SIDE * 2 // 3, *(round(text_width(text, SIZE)) for text in (name, headline)))
    box = (GAP + widest + GAP, y, image.width - GAP, y + SIZE - 2)
    draw_scale(image, box, row.scale, SIZE, row.signs, strength=row.display.alpha)
