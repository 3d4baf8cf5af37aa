"""Maps side by side: one row an explanation, one panel a prompt, one scale a row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image

from heatproof.certificate import Certificate
from heatproof.explanation import Explanation
from heatproof.images import Photo
from heatproof.models.geometry import View
from heatproof.plots.lights import (
    FAINT,
    HEADLINES,
    INK,
    KIND_COLOURS,
    PAPER,
    Lights,
    band,
    sentence_of,
)
from heatproof.plots.overlay import (
    Frame,
    Signs,
    draw,
    frame,
    pictured,
    scale_bar,
    score_text,
    seen,
    shared_scale,
    unseen,
)
from heatproof.plots.text import plain, shortened, width, wrapped, write

SIDE = 300  # pixels of a panel's longer side
SIZE = 15  # of the letters
GAP = 18
UNKNOWN = " · unknown words"


@dataclass(frozen=True)
class Panel:
    """One map, what was asked, and a remark beneath it (its score)."""

    title: str
    remark: str
    values: Float[np.ndarray, "row col"]


@dataclass(frozen=True)
class Row:
    """Panels that share a scale, what its ends say, and what the certificate says of them."""

    name: str
    panels: tuple[Panel, ...]
    scale: float
    certificate: Certificate
    signs: Signs


def row(explanation: Explanation, image: int = 0, controls: Sequence[Panel] = ()) -> Row:
    """The maps of one picture, prompt by prompt, and controls, on one scale for all of them."""
    record = explanation.record
    silent = explanation.certificate.says_nothing
    panels = tuple(
        Panel(
            prompt or "(empty prompt)",
            score_text(explanation, image, number) + (UNKNOWN if prompt in silent else ""),
            np.asarray(explanation.maps[image, number].cpu(), np.float32),
        )
        for number, prompt in enumerate(record.prompts)
    )
    scale = scale_of(explanation, image, controls)
    return Row(record.method, (*panels, *controls), scale, explanation.certificate, record.signs)


def scale_of(explanation: Explanation, image: int, controls: Sequence[Panel]) -> float:
    """The largest |value| over all prompts of a picture and all controls shown with them."""
    others = [float(np.abs(panel.values).max()) for panel in controls]
    return max([shared_scale(explanation, image), *others])


def sheet(photo: Photo, view: View, rows: list[Row]) -> Image.Image:
    """The photograph, then each row's maps on it; a row is read by itself: rows differ in units."""
    part = frame(photo, view).fitted(SIDE)
    columns = 1 + max(len(row.panels) for row in rows)
    broad = GAP + columns * (max(part.width, SIDE * 2 // 3) + GAP)
    drawn = [_row(photo, view, part, row, broad) for row in rows]
    image = Image.new("RGB", (broad, sum(strip.height for strip in drawn)), PAPER)
    y = 0
    for strip in drawn:
        image.paste(strip, (0, y))
        y += strip.height
    return image


def strip(explanation: Explanation, image: int = 0, controls: Sequence[Panel] = ()) -> Image.Image:
    """One picture's maps, and controls, side by side on their shared scale."""
    return sheet(*pictured(explanation, image), [row(explanation, image, controls)])


def _row(photo: Photo, view: View, part: Frame, row: Row, broad: int) -> Image.Image:
    room = max(part.width, SIDE * 2 // 3)
    sentence = sentence_of(row.certificate)
    lines = wrapped(sentence, SIZE, broad - 2 * GAP - 2 * SIZE, 5) if sentence else []
    lights = Lights(row.certificate.lights, SIZE, broad - 2 * GAP)
    titles = [wrapped(panel.title, SIZE, room, 2) for panel in row.panels]
    above = GAP + 22 * max(len(title) for title in titles)
    footer = above + part.height + 8 + 22 + GAP
    band_height = (round(1.5 * SIZE) * len(lines) + SIZE + GAP) if lines else 0
    under = footer + 2 * SIZE + GAP
    image = Image.new("RGB", (broad, under + lights.height + GAP + band_height), PAPER)
    pictures = [photograph(photo, view, part)]
    pictures += [draw(photo, view, panel.values, row.scale, part) for panel in row.panels]
    texts = [["photograph"], *titles]
    remarks = [f"{view.unseen:.0%} unseen (hatched)" if view.unseen >= 0.005 else "nothing cropped"]
    remarks += [panel.remark for panel in row.panels]
    for number, (picture, title, remark) in enumerate(zip(pictures, texts, remarks, strict=True)):
        x = GAP + number * (room + GAP)
        for line, text in enumerate(reversed(title)):
            place = (x, above - 22 * (line + 1))
            write(image, place, text, SIZE, INK if number else FAINT)
        image.paste(picture, (x, above))
        write(image, (x, above + part.height + 6), shortened(remark, SIZE, room), SIZE, FAINT)
    _footer(image, footer, row)
    lights.draw(image, GAP, under)
    if lines:
        band(image, under + lights.height + GAP, lines, SIZE, row.certificate.kind)
    return image


def photograph(photo: Photo, view: View, part: Frame) -> Image.Image:
    """The photograph in its own colours, with the unseen part marked."""
    picture = photo.image.crop((part.left, part.top, part.right, part.bottom))
    picture = picture.resize((part.width, part.height), Image.Resampling.LANCZOS)
    return unseen(picture, picture, seen(view, part))


def _footer(image: Image.Image, y: int, row: Row) -> None:
    """Method and verdict on the left, the shared scale beneath the maps."""
    kind = row.certificate.kind
    name = shortened(plain(row.name), SIZE, SIDE - GAP)
    mark = HEADLINES[kind]
    write(image, (GAP, y - 2), name, SIZE, INK)
    write(image, (GAP, y + 18), mark, SIZE, KIND_COLOURS[kind])
    left = GAP + max(SIDE * 2 // 3, *(round(width(text, SIZE)) for text in (name, mark))) + GAP
    box = (left, y, image.width - GAP, y + SIZE - 2)
    scale_bar(image, box, row.scale, SIZE, row.signs)
