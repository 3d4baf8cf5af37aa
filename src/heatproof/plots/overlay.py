"""A map on the original photo, on a scale that all prompts of the image share.

Top to bottom: the photo in grey with the map in colour and the cropped part hatched; the prompt and
its score; the scale; what the certificate says. The map itself is never changed. Display steps are
bilinear interpolation from the patches' centres, the shared scale, and the colours of
`heatproof.plots.colour`.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw

from heatproof.certificate import Certificate
from heatproof.display import GREY, STRENGTH, Display
from heatproof.image_maps import NO_PROMPT, ImageMaps
from heatproof.images import Photo
from heatproof.models.geometry import PhotoView
from heatproof.plots import colour
from heatproof.plots.lights import (
    FAINT,
    INK,
    PAPER,
    LightsLayout,
    band_sentence,
    draw_badge,
    draw_band,
)
from heatproof.plots.text import one_line, shorten, wrap, write

LONGEST = 4096  # pixels; larger photos are drawn scaled down to this
SHORTEST = 448  # pixels; smaller ones are drawn larger
WIDEST_ASPECT = 6  # of what is shown: of a panorama, the view and its surroundings

UNSURE = "thin lines: sign not established (95 %)"

Values = Float[np.ndarray, "row col"]
Signs = tuple[str, str] | None


@dataclass(frozen=True, kw_only=True)
class Viewport:
    """The part of a photo that is drawn, in its pixels, and the size that it is drawn at."""

    left: int
    top: int
    right: int
    bottom: int
    width: int
    height: int

    @property
    def zoom(self) -> float:
        """Drawn pixels per pixel of the photo."""
        return self.width / (self.right - self.left)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The part, as Pillow's `crop` takes it."""
        return self.left, self.top, self.right, self.bottom

    def remarks(self, photo: Photo) -> list[str]:
        """Say how the drawing differs from the photo's own pixels."""
        across, down = self.right - self.left, self.bottom - self.top
        remarks: list[str] = []
        if (across, down) != photo.image.size:
            remarks.append(
                f"{across} x {down} of {photo.image.width} x {photo.image.height} pixels"
            )
        if self.zoom != 1:
            remarks.append(f"drawn {self.zoom:.3g} times as large")
        return remarks

    def fit(self, side: int) -> "Viewport":
        """Return the same part with its longer side drawn `side` pixels long."""
        zoom = side / max(self.right - self.left, self.bottom - self.top)
        width = max(1, round((self.right - self.left) * zoom))
        return replace(self, width=width, height=max(1, round((self.bottom - self.top) * zoom)))


def overlay(maps: ImageMaps, prompt: int = 0) -> Image.Image:
    """Draw one prompt's map on its photo, with caption, scale and the certificate's verdict."""
    viewport = viewport_of(maps.photo, maps.view)
    text = maps.record.prompts[prompt]
    return add_caption(
        draw(
            maps.photo,
            maps.view,
            maps.values(prompt),
            maps.scale,
            viewport,
            maps.unsure(prompt),
            maps.display,
        ),
        prompt=text,
        score=" · ".join(
            [
                maps.score_text(prompt),
                maps.record.method,
                *([] if maps.errors is None else [UNSURE]),
                *viewport.remarks(maps.photo),
            ]
        ),
        scale=maps.scale,
        certificate=maps.certificate_of(prompt),
        signs=maps.record.signs,
        strength=maps.display.alpha,
    )


# The map on the photo


def viewport_of(
    photo: Photo, view: PhotoView, longest: int = LONGEST, shortest: int = SHORTEST
) -> Viewport:
    """Choose what is drawn: the whole photo, at its own size unless that is huge or tiny.

    Of a photo of extreme proportions: the view, and as much around it as fits.
    """
    width, height = photo.image.size
    left, right = _extent(width, height, view.seen[0], view.seen[2])
    top, bottom = _extent(height, width, view.seen[1], view.seen[3])
    across, down = right - left, bottom - top
    zoom = min(1.0, longest / max(across, down))
    if max(across, down) < shortest:
        # A whole factor keeps the pixels of a small image square and equal.
        zoom = float(math.ceil(shortest / max(across, down)))
    return Viewport(
        left=left,
        top=top,
        right=right,
        bottom=bottom,
        width=max(1, round(across * zoom)),
        height=max(1, round(down * zoom)),
    )


def _extent(length: int, other: int, start: float, end: float) -> tuple[int, int]:
    """Return where the drawn part of one side begins and ends: at most `WIDEST_ASPECT` wide."""
    room = WIDEST_ASPECT * other
    if length <= room:
        return 0, length
    middle = (start + end) / 2
    first = min(max(0, round(middle - room / 2)), length - room)
    return first, first + room


def draw(
    photo: Photo,
    view: PhotoView,
    values: Values,
    scale: float,
    viewport: Viewport,
    unsure: Bool[np.ndarray, "row col"] | None = None,
    display: Display = GREY,
) -> Image.Image:
    """Draw the map over the photo; hatched where the model did not see it.

    unsure: patches whose sign is not established, which get thin lines.
    """
    part = photo.image.crop(viewport.box)
    # Smoothing an image of a few pixels would hide that it has only a few.
    filter = Image.Resampling.NEAREST if viewport.zoom >= 4 else Image.Resampling.LANCZOS
    part = part.resize((viewport.width, viewport.height), filter)
    painted = colour.paint(part, interpolate(view, values, viewport), scale, display)
    if unsure is not None:
        painted = hatch_unsure(painted, view, unsure, viewport)
    return hatch_unseen(painted, part, seen_mask(view, viewport))


def draw_photo(photo: Photo, view: PhotoView, viewport: Viewport) -> Image.Image:
    """Draw the photo in its own colours, hatched where the model did not see it."""
    part = photo.image.crop(viewport.box)
    part = part.resize((viewport.width, viewport.height), Image.Resampling.LANCZOS)
    return hatch_unseen(part, part, seen_mask(view, viewport))


def interpolate(
    view: PhotoView, values: Values, viewport: Viewport
) -> Float[np.ndarray, "height width"]:
    """Return the map at each drawn pixel, interpolated bilinearly from the patches' centres."""
    rows, cols = values.shape
    x, y = _pixel_centres(viewport)
    down = _weights((y - view.top) / (view.bottom - view.top) * rows, rows)
    across = _weights((x - view.left) / (view.right - view.left) * cols, cols)
    # One NaN patch would blank every pixel that it takes part in, at any weight.
    return down @ np.nan_to_num(values, posinf=0.0, neginf=0.0).astype(np.float32) @ across.T


def seen_mask(view: PhotoView, viewport: Viewport) -> Bool[np.ndarray, "height width"]:
    """Return which drawn pixels the model saw."""
    x, y = _pixel_centres(viewport)
    # A mirroring preprocessing has its left edge right of its right edge.
    (left, right), (top, bottom) = (
        sorted(ends) for ends in ((view.left, view.right), (view.top, view.bottom))
    )
    return np.outer((y >= top) & (y < bottom), (x >= left) & (x < right))


def _pixel_centres(
    viewport: Viewport,
) -> tuple[Float[np.ndarray, " width"], Float[np.ndarray, " height"]]:
    """Return the drawn pixels' centres, in pixels of the photo."""
    across, down = viewport.right - viewport.left, viewport.bottom - viewport.top
    x = viewport.left + (np.arange(viewport.width) + 0.5) * (across / viewport.width)
    y = viewport.top + (np.arange(viewport.height) + 0.5) * (down / viewport.height)
    return x, y


def _weights(at: Float[np.ndarray, " pixel"], cells: int) -> Float[np.ndarray, "pixel cell"]:
    """Weigh cells (cell 0 spans 0..1) linearly between centres, flat beyond the outer ones."""
    at = np.clip(at - 0.5, 0.0, cells - 1.0)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(cells))).astype(np.float32)


def hatch_unsure(
    painted: Image.Image,
    view: PhotoView,
    unsure: Bool[np.ndarray, "row col"],
    viewport: Viewport,
) -> Image.Image:
    """Draw thin falling lines over some patches: the map shows through them, unchanged."""
    rows, cols = unsure.shape
    x, y = _pixel_centres(viewport)
    # A pixel belongs to one patch: an interpolated border would hatch parts of others.
    row = np.clip((y - view.top) / (view.bottom - view.top) * rows, 0, rows - 1).astype(int)
    col = np.clip((x - view.left) / (view.right - view.left) * cols, 0, cols - 1).astype(int)
    thick = max(1, min(painted.size) // 300)
    step = max(5 * thick, min(painted.height // rows, painted.width // cols) // 3)
    down, across = np.ogrid[: painted.height, : painted.width]
    lines = unsure[row][:, col] & ((across - down) % step < thick)
    lined = Image.blend(painted, Image.new("RGB", painted.size, INK), 0.22)
    return Image.composite(lined, painted, Image.fromarray(lines))


def hatch_unseen(
    painted: Image.Image, photo: Image.Image, seen: Bool[np.ndarray, "height width"]
) -> Image.Image:
    """Cover what the model never saw: dark, hatched, outlined, so that it cannot pass for 0."""
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


def add_caption(
    drawing: Image.Image,
    *,
    prompt: str,
    score: str,
    scale: float,
    certificate: Certificate,
    signs: Signs,
    strength: float = STRENGTH,
) -> Image.Image:
    """Put a drawing top left, in its own size, above what must be read with it."""
    size = min(max(13, max(drawing.size) // 44), 64)
    width = max(drawing.width, 24 * size)
    gap = size // 2
    title = wrap(prompt or NO_PROMPT, round(1.25 * size), width - 2 * gap, 2)
    lights = LightsLayout(certificate.lights, size, width - 2 * gap, evidence=True)
    sentence = band_sentence(certificate)
    lines = wrap(sentence, size, width - 4 * gap, 6) if sentence else []
    caption = gap + round(1.65 * size) * len(title) + round(5 * size) + lights.height + gap
    band = round(1.5 * size) * len(lines) + size + gap if lines else 0
    sheet = Image.new("RGB", (width, drawing.height + caption + band), PAPER)
    sheet.paste(drawing, (0, 0))
    y = drawing.height + gap
    for line in title:
        write(sheet, (gap, y), line, round(1.25 * size), INK)
        y += round(1.65 * size)
    write(sheet, (gap, y), shorten(one_line(score), size, width - 2 * gap), size, FAINT)
    y += round(1.9 * size)
    draw_scale(sheet, (gap, y, width - gap, y + size), scale, size, signs, strength=strength)
    y += round(3.1 * size)
    lights.draw(sheet, gap, y)
    if lines:
        draw_band(sheet, y + lights.height + gap, lines, size, certificate.kind)
    draw_badge(sheet, size, certificate)
    return sheet


def draw_scale(
    sheet: Image.Image,
    box: tuple[int, int, int, int],
    scale: float,
    size: int,
    signs: Signs,
    on_white: bool = False,
    strength: float = STRENGTH,
) -> None:
    """Draw the colour bar in `box`; beneath it its ends, zero, and what the signs mean."""
    left, top, right, bottom = box
    sheet.paste(colour.bar(right - left, bottom - top, on_white, strength), (left, top))
    y = bottom + size // 3
    if scale <= 0:
        write(sheet, ((left + right) / 2, y), "all values are zero", size, FAINT, "ma")
        return
    low, high = legend(signs)
    room = (right - left) / 2 - size
    write(sheet, (left, y), shorten(f"-{scale:.3g} {low}", size, room), size, FAINT)
    write(sheet, ((left + right) / 2, y), "0", size, FAINT, "ma")
    write(sheet, (right, y), shorten(f"{high} +{scale:.3g}", size, room), size, FAINT, "ra")


def legend(signs: Signs) -> tuple[str, str]:
    """Return the words at the ends of a scale: the method's own, or just low and high."""
    return signs or ("low", "high")
