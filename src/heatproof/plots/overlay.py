"""A map on the original photograph, on a scale that all prompts of the picture share.

What is shown, top to bottom: the photograph in grey with the map in colour and the unseen part
hatched; the prompt and its score; the scale; and what the certificate says. Display steps, none of
which touches the map itself: bilinear interpolation from the patches' centres, the shared scale,
the colours of `heatproof.plots.colour`.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw

from heatproof.certificate import Certificate
from heatproof.explanation import Explanation
from heatproof.images import Photo
from heatproof.models.geometry import View
from heatproof.plots import colour
from heatproof.plots.lights import FAINT, INK, PAPER, Lights, badge, band, sentence_of
from heatproof.plots.text import plain, shortened, wrapped, write

LONGEST = 4096  # pixels; larger photographs are drawn scaled down to this
SHORTEST = 448  # pixels; smaller ones are drawn larger
WIDEST_ASPECT = 6  # of what is shown: of a panorama, the view and its surroundings

Values = Float[np.ndarray, "row col"]
Signs = tuple[str, str] | None


@dataclass(frozen=True)
class Frame:
    """The part of a photograph that is drawn, in its pixels, and the size that it is drawn at."""

    left: int
    top: int
    right: int
    bottom: int
    width: int
    height: int

    @property
    def zoom(self) -> float:
        return self.width / (self.right - self.left)

    def remarks(self, photo: Photo) -> list[str]:
        """How what is drawn differs from the photograph's own pixels."""
        across, down = self.right - self.left, self.bottom - self.top
        remarks: list[str] = []
        if (across, down) != photo.image.size:
            remarks.append(
                f"{across} x {down} of {photo.image.width} x {photo.image.height} pixels"
            )
        if self.zoom != 1:
            remarks.append(f"drawn {self.zoom:.3g} times as large")
        return remarks

    def fitted(self, side: int) -> "Frame":
        """The same part, its longer side drawn `side` pixels long."""
        zoom = side / max(self.right - self.left, self.bottom - self.top)
        wide = max(1, round((self.right - self.left) * zoom))
        return replace(self, width=wide, height=max(1, round((self.bottom - self.top) * zoom)))


def overlay(explanation: Explanation, image: int = 0, prompt: int = 0) -> Image.Image:
    """One prompt's map on its photograph, with caption, scale and the certificate's verdict."""
    photo, view = pictured(explanation, image)
    values = np.asarray(explanation.maps[image, prompt].cpu(), np.float32)
    scale = shared_scale(explanation, image)
    part = frame(photo, view)
    score = score_text(explanation, image, prompt)
    return captioned(
        draw(photo, view, values, scale, part),
        explanation.record.prompts[prompt],
        " · ".join([score, explanation.record.method, *part.remarks(photo)]),
        scale,
        explanation.certificate.of(explanation.record.prompts[prompt]),
        explanation.record.signs,
    )


def pictured(explanation: Explanation, image: int = 0) -> tuple[Photo, View]:
    """The photograph and its view; a plain grey one, seen whole, where a tensor came in."""
    if explanation.photos:
        return explanation.photos[image], explanation.views[image]
    rows, cols = (32 * side for side in explanation.maps.shape[-2:])
    blank = Photo(Image.new("RGB", (cols, rows), "#b0b0b0"), f"tensor {image}")
    return blank, View(cols, rows, 0.0, 0.0, float(cols), float(rows))


def shared_scale(explanation: Explanation, image: int = 0) -> float:
    """The largest |value| over all prompts of a picture: the end of its one scale."""
    values = np.asarray(explanation.maps[image].cpu(), np.float32)
    finite = values[np.isfinite(values)]
    return float(np.abs(finite).max()) if finite.size else 0.0


def score_text(explanation: Explanation, image: int, prompt: int) -> str:
    """What was explained and its value in the untouched model."""
    return f"{explanation.record.score} {float(explanation.scores[image, prompt]):+.4f}"


# The map on the photograph


def frame(photo: Photo, view: View, longest: int = LONGEST, shortest: int = SHORTEST) -> Frame:
    """The whole photograph, at its own size where that is neither huge nor tiny.

    Of a photograph of extreme proportions: the view, and as much around it as fits.
    """
    width, height = photo.image.size
    left, right = _extent(width, height, view.seen[0], view.seen[2])
    top, bottom = _extent(height, width, view.seen[1], view.seen[3])
    wide, high = right - left, bottom - top
    zoom = min(1.0, longest / max(wide, high))
    if max(wide, high) < shortest:
        zoom = float(math.ceil(shortest / max(wide, high)))
    return Frame(left, top, right, bottom, max(1, round(wide * zoom)), max(1, round(high * zoom)))


def _extent(length: int, other: int, start: float, end: float) -> tuple[int, int]:
    """Where the drawn part of one side begins and ends: `WIDEST_ASPECT` of the other at most."""
    room = WIDEST_ASPECT * other
    if length <= room:
        return 0, length
    middle = (start + end) / 2
    first = min(max(0, round(middle - room / 2)), length - room)
    return first, first + room


def draw(photo: Photo, view: View, values: Values, scale: float, frame: Frame) -> Image.Image:
    """The drawn part of the photograph: grey, the map in colour; hatched where it was not seen."""
    part = photo.image.crop((frame.left, frame.top, frame.right, frame.bottom))
    way = Image.Resampling.NEAREST if frame.zoom >= 4 else Image.Resampling.LANCZOS
    part = part.resize((frame.width, frame.height), way)
    painted = colour.paint(part, placed(view, values, frame), scale)
    return unseen(painted, part, seen(view, frame))


def placed(view: View, values: Values, frame: Frame) -> Float[np.ndarray, "height width"]:
    """The map at each drawn pixel, interpolated bilinearly from the centres of the patches."""
    rows, cols = values.shape
    x, y = _centres(frame)
    down = _weights((y - view.top) / (view.bottom - view.top) * rows, rows)
    across = _weights((x - view.left) / (view.right - view.left) * cols, cols)
    return down @ np.nan_to_num(values, posinf=0.0, neginf=0.0).astype(np.float32) @ across.T


def seen(view: View, frame: Frame) -> Bool[np.ndarray, "height width"]:
    """Which drawn pixels the model saw."""
    x, y = _centres(frame)
    (left, right), (top, bottom) = (
        sorted(ends) for ends in ((view.left, view.right), (view.top, view.bottom))
    )
    return np.outer((y >= top) & (y < bottom), (x >= left) & (x < right))


def _centres(frame: Frame) -> tuple[Float[np.ndarray, " width"], Float[np.ndarray, " height"]]:
    """The drawn pixels' centres, in pixels of the photograph."""
    x = frame.left + (np.arange(frame.width) + 0.5) * ((frame.right - frame.left) / frame.width)
    y = frame.top + (np.arange(frame.height) + 0.5) * ((frame.bottom - frame.top) / frame.height)
    return x, y


def _weights(at: Float[np.ndarray, " pixel"], cells: int) -> Float[np.ndarray, "pixel cell"]:
    """Linear interpolation between the centres of cells (cell 0 spans 0..1), flat at the ends."""
    at = np.clip(at - 0.5, 0.0, cells - 1.0)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(cells))).astype(np.float32)


def unseen(
    painted: Image.Image, photo: Image.Image, seen: Bool[np.ndarray, "height width"]
) -> Image.Image:
    """What the model never saw: dark, hatched, behind a line; nobody takes it for a value of 0."""
    if seen.all():
        return painted
    dark = Image.blend(
        photo.convert("L").convert("RGB"), Image.new("RGB", photo.size, "#585858"), 0.72
    )
    step = max(7, min(photo.size) // 36)
    y, x = np.ogrid[: photo.height, : photo.width]
    stripes = (x + y) % step < max(1, step // 7)
    dark.paste("#949494", (0, 0), Image.fromarray(stripes))
    dark.paste(painted, (0, 0), Image.fromarray(seen))
    _outline(dark, seen)
    return dark


def _outline(image: Image.Image, seen: Bool[np.ndarray, "height width"]) -> None:
    rows, cols = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if len(rows) and len(cols):
        thick = max(1, min(image.size) // 300)
        box = (cols[0] - thick, rows[0] - thick, cols[-1] + thick, rows[-1] + thick)
        ImageDraw.Draw(image).rectangle(tuple(map(int, box)), outline=INK, width=thick)


# What stands beneath it


def captioned(
    drawn: Image.Image,
    prompt: str,
    score: str,
    scale: float,
    certificate: Certificate,
    signs: Signs,
) -> Image.Image:
    """The drawn photograph, top left and of its own size, with what must be read with it."""
    size = min(max(13, max(drawn.size) // 44), 64)
    broad = max(drawn.width, 24 * size)
    gap = size // 2
    title = wrapped(prompt or "(empty prompt)", round(1.25 * size), broad - 2 * gap, 2)
    lights = Lights(certificate.lights, size, broad - 2 * gap, evidence=True)
    sentence = sentence_of(certificate)
    lines = wrapped(sentence, size, broad - 4 * gap, 6) if sentence else []
    high = gap + round(1.65 * size) * len(title) + round(5 * size) + lights.height + gap
    under = round(1.5 * size) * len(lines) + size + gap if lines else 0
    sheet = Image.new("RGB", (broad, drawn.height + high + under), PAPER)
    sheet.paste(drawn, (0, 0))
    y = drawn.height + gap
    for line in title:
        write(sheet, (gap, y), line, round(1.25 * size), INK)
        y += round(1.65 * size)
    write(sheet, (gap, y), shortened(plain(score), size, broad - 2 * gap), size, FAINT)
    y += round(1.9 * size)
    scale_bar(sheet, (gap, y, broad - gap, y + size), scale, size, signs)
    y += round(3.1 * size)
    lights.draw(sheet, gap, y)
    if lines:
        band(sheet, y + lights.height + gap, lines, size, certificate.kind)
    badge(sheet, size, certificate)
    return sheet


def scale_bar(
    sheet: Image.Image,
    box: tuple[int, int, int, int],
    scale: float,
    size: int,
    signs: Signs,
    on_white: bool = False,
) -> None:
    """The colour bar in `box`, its ends and zero printed beneath it, with what their signs say."""
    left, top, right, bottom = box
    sheet.paste(colour.bar(right - left, bottom - top, on_white), (left, top))
    y = bottom + size // 3
    if scale <= 0:
        write(sheet, ((left + right) / 2, y), "all values are zero", size, FAINT, "ma")
        return
    low, high = legend(signs)
    room = (right - left) / 2 - size
    write(sheet, (left, y), shortened(f"-{scale:.3g} {low}", size, room), size, FAINT)
    write(sheet, ((left + right) / 2, y), "0", size, FAINT, "ma")
    write(sheet, (right, y), shortened(f"{high} +{scale:.3g}", size, room), size, FAINT, "ra")


def legend(signs: Signs) -> tuple[str, str]:
    """What stands at the ends of a scale: the method's own words, or nothing but low and high."""
    return signs or ("low", "high")
