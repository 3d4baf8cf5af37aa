"""Inpaint as ROAD does: each hidden pixel becomes the weighted mean of its neighbours.

Source: Rong et al., ICML 2022, arXiv 2202.00449: one linear equation per hidden pixel, direct
neighbours weighing 1/6 and diagonal ones 1/12; neighbours beyond the border are left out. The
authors solve it with a sparse direct solver, image by image; here conjugate gradients solve all
images of a batch at once on their device, starting from the solution at half the size.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

TOLERANCE = 1e-5
MOST = 1000
LOOK_EVERY = 10
SMALLEST = 8

Pixels = Float[Tensor, "variant channel height width"]


def inpainted(
    pixels: Pixels, known: Bool[Tensor, "variant 1 height width"], tolerance: float = TOLERANCE
) -> Pixels:
    """Return `pixels` where `known`, and the solution of ROAD's equations elsewhere.

    An image of which nothing is known becomes its mean colour. `tolerance` is the residual's,
    relative to what the known pixels give. What an image becomes does not depend on its batch.
    """
    nothing = ~known.flatten(1).any(1)[:, None, None, None]
    mean = pixels.mean((2, 3), keepdim=True).expand_as(pixels)
    return torch.where(nothing, mean, _solved(pixels, known, tolerance))


def _solved(pixels: Tensor, known: Tensor, tolerance: float) -> Tensor:
    height, width = pixels.shape[-2:]
    here = known.to(pixels.dtype)
    if min(height, width) > SMALLEST:
        share = F.avg_pool2d(here, 2, ceil_mode=True)
        sums = F.avg_pool2d(pixels * here, 2, ceil_mode=True)
        small = sums / share.masked_fill(share == 0, 1)
        coarse = _solved(small, share > 0, tolerance)
        guess = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    else:
        count = here.sum((2, 3), keepdim=True).clamp(min=1)
        guess = ((pixels * here).sum((2, 3), keepdim=True) / count).expand_as(pixels)
    return _conjugate_gradients(pixels, known, guess, tolerance)


def _neighbours(values: Tensor) -> Tensor:
    """Return the weighted sum of the eight neighbours, fewer at the border."""
    side, corner = 1 / 6, 1 / 12
    weights = torch.tensor(
        [[corner, side, corner], [side, 0, side], [corner, side, corner]],
        dtype=values.dtype,
        device=values.device,
    )
    channels = values.shape[1]
    return F.conv2d(values, weights.expand(channels, 1, 3, 3), padding=1, groups=channels)


def _conjugate_gradients(pixels: Tensor, known: Tensor, guess: Tensor, tolerance: float) -> Tensor:
    """Solve (weights' sum) x - neighbours(x) = 0 for the hidden pixels, from `guess` on."""
    zero = torch.zeros((), dtype=pixels.dtype, device=pixels.device)
    diagonal = _neighbours(torch.ones_like(pixels[:1]))

    def hidden_part(values: Tensor) -> Tensor:
        return torch.where(known, zero, values)

    def apply(values: Tensor) -> Tensor:
        return hidden_part(diagonal * values - _neighbours(values))

    def dot(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).sum((2, 3), keepdim=True)

    given = hidden_part(_neighbours(torch.where(known, pixels, zero)))
    found = hidden_part(guess)
    residual = given - apply(found)
    step = residual / diagonal
    direction, slope = step, dot(residual, step)
    enough = tolerance**2 * dot(given, given / diagonal)
    for number in range(MOST):
        # What has converged stays as it is, whatever else is in the batch.
        going = slope > enough
        if number % LOOK_EVERY == 0 and not going.any():
            break
        image = apply(direction)
        length = dot(direction, image)
        size = torch.where(going & (length > 0), slope / length, zero)
        found = found + size * direction
        residual = residual - size * image
        step = residual / diagonal
        new = dot(residual, step)
        direction = step + torch.where(going, new / slope, zero) * direction
        slope = torch.where(going, new, slope)
    return torch.where(known, pixels, found)
