"""What a preprocessing shows of a photograph, by pictures whose pixels say where they are."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from heatproof.models.geometry import Preprocess


def worst_place(preprocess: Preprocess, width: int, height: int) -> float:
    """By how many photograph pixels `preprocess.view` is wrong about what the model's pixels show.

    Red grows with x and green with y, so that a pixel of the view tells its place. The outermost
    eighth of the view is left out, where resampling meets the border.
    """
    black, white = (preprocess(_picture(width, height, value)) for value in (0.0, 1.0))
    ramps = preprocess(_picture(width, height, None))
    assert ramps.shape == (3, preprocess.height, preprocess.width)
    place = (ramps - black) / (white - black)
    view = preprocess.view(width, height)
    missing_rows, missing_cols = preprocess.unpatched
    across = _errors(
        place[0] * (width - 1) + 0.5, view.left, view.right, preprocess.width - missing_cols
    )
    down = _errors(
        place[1].T * (height - 1) + 0.5, view.top, view.bottom, preprocess.height - missing_rows
    )
    return max(across, down)


def _errors(place: Tensor, start: float, end: float, seen: int) -> float:
    """`place` (line, index): where each pixel along an axis lies, by the ramp."""
    index = torch.arange(place.shape[1]) + 0.5
    expected = start + index * (end - start) / seen
    lines, edge = slice(place.shape[0] // 4, -(place.shape[0] // 4)), max(1, place.shape[1] // 8)
    return (place[lines] - expected)[:, edge:-edge].abs().max().item()


def _picture(width: int, height: int, value: float | None) -> Image.Image:
    pixels = np.full((height, width, 3), 0.0 if value is None else value)
    if value is None:
        pixels[..., 0] = np.linspace(0, 1, width)
        pixels[..., 1] = np.linspace(0, 1, height)[:, None]
    return Image.fromarray(np.round(pixels * 255).astype(np.uint8))
