"""Measure what part of a photo a preprocessing shows the model, once for each preprocessing.

It is given a black image, a white one and two ramps; where a ramp comes out 30 % of the way from
black to white, the model sees what lies at 30 % of the photo. What settings claim (those of
torchvision's `Resize` and `CenterCrop`, of a processor, of a library's configuration) is kept if it
agrees with the measurement. Otherwise the box is measured for each size of photo.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from heatproof.errors import HeatproofError, ModelError
from heatproof.models.geometry import Box, PhotoView, Preprocess
from heatproof.models.library import name_of

Transform = Callable[[Image.Image], Tensor]
Size = tuple[int, int]


def described(preprocess: Any, claimed: Preprocess | None = None) -> Preprocess:
    """Return the preprocessing with its geometry, which is `claimed` where that is right.

    Raises:
        ModelError: it is no preprocessing, or random, or it gives images of different sizes, or no
            box of the photo is what it shows.
    """
    if not callable(preprocess):
        raise ModelError(
            f"got a {type(preprocess).__name__} as the preprocessing, expected a transform of PIL "
            "images or an image processor (the last of open_clip.create_model_and_transforms)"
        )
    transform: Any = preprocess
    if getattr(transform, "__hash__", None) is None:
        transform = partial(transform)  # measurements are kept by transform
    transform = cast(Transform, transform)
    # A wide and a high photo: what depends on the shape (a crop, padding) shows in one of them.
    wide, high = (_pixels(transform, _grey(*size)).shape[1:] for size in (_WIDE, _HIGH))
    if wide != high:
        raise ModelError(
            f"the preprocessing ({name_of(transform)}) gives images of no fixed size: "
            f"{wide[0]} x {wide[1]} pixels for a wide photo, {high[0]} x {high[1]} for a high one; "
            "expected one that squashes, or that resizes and crops"
        )
    height, width = int(wide[0]), int(wide[1])
    claimed = claimed or _read_off(transform, (height, width))
    if claimed is not None and (claimed.height, claimed.width) == (height, width):
        shown = (_box(transform, *size) for size in (_WIDE, _HIGH))
        whole = replace(claimed, unpatched=(0, 0))
        views = (whole.view(*size) for size in (_WIDE, _HIGH))
        if all(_agree(view, box, (height, width)) for view, box in zip(views, shown, strict=True)):
            return claimed
    return _measured(transform, height, width, (0, 0) if claimed is None else claimed.unpatched)


def checked(claimed: Preprocess) -> Preprocess:
    """Return the geometry that a library's settings claim, or a measured one where they are wrong.

    Raises:
        ModelError: as `described`.
    """
    return described(claimed.transform, claimed)


def _measured(
    transform: Transform, height: int, width: int, unpatched: Size
) -> "MeasuredPreprocess":
    # The same shape, once three times as large: a crop of so many pixels shows less of it.
    small, large = ((166, 101), (498, 303))
    boxes = [_relative(_box(transform, *size), size) for size in (small, large)]
    left, top, right, bottom = boxes[1]
    steps = (abs(right - left) / width, abs(bottom - top) / height) * 2
    scales = all(
        abs(one - other) <= 0.75 * step for one, other, step in zip(*boxes, steps, strict=True)
    )
    measured = MeasuredPreprocess(
        height=height,
        width=width,
        resize="squash",
        resize_to=min(height, width),
        transform=transform,
        unpatched=unpatched,
        scales=scales,
    )
    if min(left, right) > 0.005 or max(left, right) < 0.995:
        return replace(measured, resize="shortest")
    if min(top, bottom) < -0.005 or max(top, bottom) > 1.005:
        return replace(measured, resize="longest", resize_to=max(height, width))
    return measured


def _agree(view: PhotoView, box: Box, size: Size) -> bool:
    """Return whether a view and a measured box differ by less than half a pixel of the model's."""
    step = (view.right - view.left) / size[1], (view.bottom - view.top) / size[0]
    claimed = (view.left, view.top, view.right, view.bottom)
    return all(
        abs(one - other) <= 0.5 * abs(pixel)
        for one, other, pixel in zip(claimed, box, step * 2, strict=True)
    )


def _relative(box: Box, size: Size) -> Box:
    width, height = size
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


_WIDE, _HIGH = (166, 101), (101, 166)


def _grey(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.full((height, width, 3), 128, dtype=np.uint8))


def _pixels(transform: Transform, picture: Image.Image) -> Float[Tensor, "3 height width"]:
    try:
        pixels: Any = transform(picture)
    except HeatproofError:
        raise
    except Exception as error:  # whatever code of the user's raises
        said = " ".join(str(error).split())[:160]
        raise ModelError(
            f"the preprocessing ({name_of(transform)}) fails on a PIL image with "
            f"{type(error).__name__}: {said}; expected one that takes a PIL image"
        ) from error
    if not isinstance(pixels, Tensor) or pixels.ndim != 3 or pixels.shape[0] != 3:
        got = (
            f"shape {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
        )
        raise ModelError(
            f"the preprocessing ({name_of(transform)}) gave {got}, expected a tensor of "
            "3 x height x width for one image"
        )
    return pixels.detach().double().cpu()


# Read off ----------------------------------------------------------------------------------------


def _read_off(transform: Transform, size: tuple[int, int]) -> Preprocess | None:
    """Return the geometry of `Resize` and `CenterCrop`, if nothing else moves pixels."""
    steps = list[Any](getattr(transform, "transforms", ()))
    moving = [step for step in steps if type(step).__name__ not in _STILL]
    names = [type(step).__name__ for step in moving]
    if names == ["Resize"] and _sides(moving[0].size) == 2:
        return Preprocess(
            height=size[0], width=size[1], resize="squash", resize_to=min(size), transform=transform
        )
    shortest = names in (["Resize"], ["Resize", "CenterCrop"]) and _sides(moving[0].size) == 1
    if shortest and len(names) == 2 and getattr(moving[0], "max_size", None) is None:
        resize_to = moving[0].size
        side = resize_to if isinstance(resize_to, int) else resize_to[0]
        return (
            Preprocess(
                height=size[0],
                width=size[1],
                resize="shortest",
                resize_to=side,
                transform=transform,
            )
            if side >= max(size)
            else None
        )
    return None


_STILL = {
    "MaybeConvertMode",
    "MaybeToTensor",
    "ToTensor",
    "ToImage",
    "ToDtype",
    "PILToTensor",
    "ConvertImageDtype",
    "Normalize",
    "function",
}


def _sides(size: Any) -> int:
    return 1 if isinstance(size, int) else len(size)


# Measured ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MeasuredPreprocess(Preprocess):
    """A preprocessing whose geometry is measured for each size of photo.

    `scales` says that it shows the same share of a photo and of a smaller copy of it; where it does
    not (a crop of so many pixels), it is measured on images as large as the photo.
    """

    scales: bool = True

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        return self.transform(image)

    def view(self, width: int, height: int) -> PhotoView:
        """Return what the model sees of a photo of this size, by measurement."""
        scale = 1.0
        if self.scales:
            smaller = min(1.0, _LONG / max(width, height)), min(1.0, _SHORT / min(width, height))
            scale = max(smaller)
        left, top, right, bottom = _box(self.transform, width, height, scale)
        missing_rows, missing_cols = self.unpatched
        right -= (right - left) * missing_cols / self.width
        bottom -= (bottom - top) * missing_rows / self.height
        return PhotoView(width=width, height=height, left=left, top=top, right=right, bottom=bottom)


_LINES = 48
"""So many rows (or columns) of an image, or fewer than twice as many, are looked at."""

_SHORT, _LONG = 64, 1024
"""ImageInputs are measured at a side of this at most, or so that the other keeps this at least."""


@lru_cache(maxsize=256)
def _box(transform: Transform, width: int, height: int, scale: float = 1.0) -> Box:
    tested = (max(2, round(width * scale)), max(2, round(height * scale)))
    black = _pixels(transform, _picture(np.zeros(tested[::-1])))
    white = _pixels(transform, _picture(np.ones(tested[::-1])))
    contrast = (white - black).mean(0)
    if not contrast.abs().max() > 0:
        raise ModelError("the preprocessing makes black and white pictures alike")
    # Where black and white come out alike, nothing of the photo is shown: padding.
    seen = contrast.abs() > contrast.abs().max() / 2
    left, right = _edges(transform, tested, 0, black, contrast, seen)
    top, bottom = _edges(transform, tested, 1, black, contrast, seen)
    across, down = width / tested[0], height / tested[1]
    return left * across, top * down, right * across, bottom * down


def _picture(values: np.ndarray) -> Image.Image:
    grey = np.round(values * 255).astype(np.uint8)
    return Image.fromarray(np.stack([grey] * 3, axis=-1))


def _edges(
    transform: Transform,
    size: tuple[int, int],
    axis: int,
    black: Tensor,
    contrast: Float[Tensor, "row col"],
    seen: Tensor,
) -> tuple[float, float]:
    """Return where the view begins and ends along x (axis 0) or y (axis 1), in pixels."""
    ramp = np.linspace(0, 1, size[axis])
    values = np.broadcast_to(ramp if axis == 0 else ramp[:, None], size[::-1])
    pixels = _pixels(transform, _picture(values))
    # Random augmentation gives another result the second time.
    again = _pixels(transform, _picture(values))
    if not torch.equal(pixels, again):
        raise ModelError("the preprocessing is random; pass the one for evaluation")
    place = (pixels - black).mean(0) / contrast * (size[axis] - 1) + 0.5
    place, seen = (plane if axis == 0 else plane.T for plane in (place, seen))
    step = max(1, len(place) // _LINES)
    place, seen = place[::step], seen[::step]
    index = (torch.arange(place.shape[1], dtype=torch.float64) + 0.5).expand_as(place)
    # Filters lean inwards at the border of a photo and would bend the line.
    inside = seen & (place > 0.12 * size[axis]) & (place < 0.88 * size[axis])
    if inside.sum() < 8:  # nearer to the border, where filters lean inwards
        inside = seen & (place > 0.02 * size[axis]) & (place < 0.98 * size[axis])
    slope, start = _line(index[inside], place[inside], size[axis])
    return start, start + slope * contrast.shape[1 - axis]


def _line(index: Tensor, place: Tensor, size: int) -> tuple[float, float]:
    """Return slope and start of the straight line through places by index."""
    if len(index) < 8:
        raise ModelError("the preprocessing cannot be measured: hardly any of the picture is left")
    design = torch.stack([index, torch.ones_like(index)], dim=1)
    slope, start = torch.linalg.lstsq(design, place).solution.tolist()
    # Resizing, cropping and padding are straight lines; a warp is none.
    worst = (design @ torch.tensor([slope, start], dtype=place.dtype) - place).abs().max().item()
    if worst > 0.03 * size:
        raise ModelError(
            "the preprocessing bends or mixes pixels, so that no box of the photograph is what the "
            "model sees; pass a transform that resizes, crops and pads only"
        )
    return slope, start
