"""What part of a photograph an unknown preprocessing shows the model: read off it, or measured.

Of torchvision's usual transforms the geometry is read off. Any other is measured: it is given a
black picture, a white one and two ramps; where a ramp comes out 30 % of the way from black to
white, the model sees what lies at 30 % of the photograph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from heatproof.errors import ModelError
from heatproof.models.geometry import Preprocess, View

Transform = Callable[[Image.Image], Tensor]


def described(transform: Transform) -> Preprocess:
    """The preprocessing with its geometry. Raises `ModelError` if it is none or random."""
    if getattr(transform, "__hash__", None) is None:
        transform = partial(transform)  # measurements are kept by transform
    picture = Image.fromarray(np.full((61, 97, 3), 128, dtype=np.uint8))
    pixels = _pixels(transform, picture)
    height, width = pixels.shape[1:]
    known = _read_off(transform, (height, width))
    if known is not None:
        return known
    measured = Measured(height, width, "squash", min(height, width), transform)
    view = measured.view(1024, 640)
    if view.left > 1 or view.right < 1023:
        measured = Measured(height, width, "shortest", min(height, width), transform)
    elif view.top < -1 or view.bottom > 641:
        measured = Measured(height, width, "longest", max(height, width), transform)
    return measured


def _pixels(transform: Transform, picture: Image.Image) -> Float[Tensor, "3 height width"]:
    pixels: Any = transform(picture)
    if not isinstance(pixels, Tensor) or pixels.ndim != 3 or pixels.shape[0] != 3:
        got = (
            f"shape {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
        )
        raise ModelError(
            f"the preprocessing gave {got}, expected a tensor of 3 x height x width for one picture"
        )
    return pixels.detach().double().cpu()


# Read off ----------------------------------------------------------------------------------------


def _read_off(transform: Transform, size: tuple[int, int]) -> Preprocess | None:
    """The geometry of `Resize` and `CenterCrop`, in this order, if nothing else moves pixels."""
    steps = list[Any](getattr(transform, "transforms", ()))
    moving = [step for step in steps if type(step).__name__ not in _STILL]
    names = [type(step).__name__ for step in moving]
    if names == ["Resize"] and _sides(moving[0].size) == 2:
        return Preprocess(*size, "squash", min(size), transform)
    shortest = names in (["Resize"], ["Resize", "CenterCrop"]) and _sides(moving[0].size) == 1
    if shortest and len(names) == 2 and getattr(moving[0], "max_size", None) is None:
        resize_to = moving[0].size
        side = resize_to if isinstance(resize_to, int) else resize_to[0]
        return Preprocess(*size, "shortest", side, transform) if side >= max(size) else None
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


@dataclass(frozen=True)
class Measured(Preprocess):
    """A preprocessing whose geometry is measured for each size of photograph."""

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        return self.transform(image)

    def view(self, width: int, height: int) -> View:
        left, top, right, bottom = _box(self.transform, width, height)
        missing_rows, missing_cols = self.unpatched
        right -= (right - left) * missing_cols / self.width
        bottom -= (bottom - top) * missing_rows / self.height
        return View(width, height, left, top, right, bottom)


_SHORT, _LONG = 64, 1024
"""Pictures are measured at a side of this at most, or so that the other keeps this at least."""


@lru_cache(maxsize=256)
def _box(transform: Transform, width: int, height: int) -> tuple[float, float, float, float]:
    scale = max(min(1.0, _LONG / max(width, height)), min(1.0, _SHORT / min(width, height)))
    tested = (max(2, round(width * scale)), max(2, round(height * scale)))
    black = _pixels(transform, _picture(np.zeros(tested[::-1])))
    white = _pixels(transform, _picture(np.ones(tested[::-1])))
    contrast = (white - black).mean(0)
    if not contrast.abs().max() > 0:
        raise ModelError("the preprocessing makes black and white pictures alike")
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
    """Where the view begins and ends along x (axis 0) or y (axis 1), in pixels of the picture."""
    ramp = np.linspace(0, 1, size[axis])
    values = np.broadcast_to(ramp if axis == 0 else ramp[:, None], size[::-1])
    pixels = _pixels(transform, _picture(values))
    again = _pixels(transform, _picture(values))
    if not torch.equal(pixels, again):
        raise ModelError("the preprocessing is random; pass the one for evaluation")
    place = (pixels - black).mean(0) / contrast * (size[axis] - 1) + 0.5
    index = torch.arange(contrast.shape[1 - axis], dtype=torch.float64) + 0.5
    index = index.expand_as(contrast) if axis == 0 else index[:, None].expand_as(contrast)
    inside = seen & (place > 0.02 * size[axis]) & (place < 0.98 * size[axis])
    slope, start = _line(index[inside], place[inside], size[axis])
    return start, start + slope * contrast.shape[1 - axis]


def _line(index: Tensor, place: Tensor, size: int) -> tuple[float, float]:
    """Slope and start of the straight line through places by index; not straight is an error."""
    if len(index) < 8:
        raise ModelError("the preprocessing cannot be measured: hardly any of the picture is left")
    design = torch.stack([index, torch.ones_like(index)], dim=1)
    slope, start = torch.linalg.lstsq(design, place).solution.tolist()
    worst = (design @ torch.tensor([slope, start], dtype=place.dtype) - place).abs().max().item()
    if worst > 0.03 * size:
        raise ModelError(
            "the preprocessing bends or mixes pixels, so that no box of the photograph is what the "
            "model sees; pass a transform that resizes, crops and pads only"
        )
    return slope, start
