"""Make what stands in the place of hidden pixels, and enlarge masks of patches to pixels."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Padding = Literal["reflect", "replicate"]


def mean_colour(
    pixels: Float[Tensor, "image 3 height width"],
) -> Float[Tensor, "image 3 1 1"]:
    """Return each image's own mean colour."""
    return pixels.mean((2, 3), keepdim=True)


def blurred(
    pixels: Float[Tensor, "image channel height width"],
    deviations: tuple[float, float],
    *,
    reach: float = 3.0,
    padding: Padding = "reflect",
) -> Float[Tensor, "image channel height width"]:
    """Return the images under a Gaussian filter.

    Args:
        deviations: the filter's standard deviations along height and width, in pixels.
        reach: where the filter is cut off, in deviations.
        padding: how the image goes on beyond its border.
    """
    for axis, deviation in zip((2, 3), deviations, strict=True):
        # Reflection needs fewer pixels than the image has.
        radius = min(int(reach * deviation), pixels.shape[axis] - 1)
        steps = torch.arange(-radius, radius + 1, device=pixels.device, dtype=pixels.dtype)
        kernel = torch.exp(-(steps**2) / (2 * deviation**2))
        shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        channels = pixels.shape[1]
        weight = (kernel / kernel.sum()).view(shape).expand(channels, 1, *shape[2:])
        pad = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        pixels = F.conv2d(F.pad(pixels, pad, mode=padding), weight, groups=channels)
    return pixels


def blurred_by_a_patch(
    pixels: Float[Tensor, "image channel height width"], grid: tuple[int, int]
) -> Float[Tensor, "image channel height width"]:
    """Return the images under a Gaussian filter whose deviation is a patch's side."""
    height, width = pixels.shape[2:]
    return blurred(pixels, (height / grid[0], width / grid[1]))


def noise(shape: Sequence[int], seed: int) -> Float[Tensor, "*shape"]:
    """Return uniform numbers in [0, 1) that depend on the seed alone, not on batch or order."""
    return torch.rand(tuple(shape), generator=torch.Generator().manual_seed(seed))


def between(
    black: Float[Tensor, "*image 3 1 1"],
    white: Float[Tensor, "*image 3 1 1"],
    share: Float[Tensor, "3 height width"],
) -> Float[Tensor, "*image 3 height width"]:
    """Return colours between black (share 0) and white (share 1), as the model is shown these."""
    # Preprocessing is affine in the colour: what lies between stays between.
    return black + (white - black) * share


def enlarged(
    cells: Bool[Tensor, "variant cell"], grid: tuple[int, int], size: tuple[int, int]
) -> Bool[Tensor, "variant 1 height width"]:
    """Return masks of patches as masks of pixels.

    Pixels that patches do not divide evenly go to the nearest patch.
    """
    on_grid = cells.view(-1, 1, *grid).float()
    return F.interpolate(on_grid, size, mode="nearest-exact") > 0.5
