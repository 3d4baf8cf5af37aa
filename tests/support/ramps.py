"""What a preprocessing shows of a photograph, by pictures whose pixels say where they are."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from heatproof.models.geometry import Preprocess


def worst_place(preprocess: Preprocess, width: int, height: int) -> float:
    """By how many photograph pixels `preprocess.view` is wrong about what the model's pixels show.

    Red grows with x and green with y, so that a pixel of the view tells its place. The outermost
    eighth of the photograph, where resampling meets its border, and padding are left out.
    """
    black, white = (preprocess(_picture(width, height, value)) for value in (0.0, 1.0))
    ramps = preprocess(_picture(width, height, None))
    height_shown, width_shown = ramps.shape[1:]
    if not preprocess.flexible:
        assert (height_shown, width_shown) == (preprocess.height, preprocess.width)
    place = (ramps - black) / (white - black)
    view = preprocess.view(width, height)
    missing_rows, missing_cols = preprocess.unpatched
    cols, rows = width_shown - missing_cols, height_shown - missing_rows
    return max(
        _error(place[0], width, view.left, view.right, cols),
        _error(place[1].T, height, view.top, view.bottom, rows),
    )


def _error(ramp: Tensor, size: int, start: float, end: float, seen: int) -> float:
    """How far the places that a ramp (line, index) tells are from even ones, `start` to `end`."""
    place = ramp * (size - 1) + 0.5
    expected = start + (torch.arange(ramp.shape[1]) + 0.5) * (end - start) / seen
    inside = (expected > size / 8) & (expected < size * 7 / 8)
    told = (place - expected)[:, inside]
    told = told[told.isfinite().all(1)]  # lines of padding tell nothing
    assert told.numel() >= seen
    return told.abs().max().item()


def _picture(width: int, height: int, value: float | None) -> Image.Image:
    pixels = np.full((height, width, 3), 0.0 if value is None else value)
    if value is None:
        pixels[..., 0] = np.linspace(0, 1, width)
        pixels[..., 1] = np.linspace(0, 1, height)[:, None]
    return Image.fromarray(np.round(pixels * 255).astype(np.uint8))
