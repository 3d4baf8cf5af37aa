"""What each object of an image is worth to the model: the score that its removal costs.

Rendered scenes are drawn again without the object (`data.scenes.counterfactual`): every other pixel
is equal, and the cost is exact. Elsewhere the object's pixels, and those right around them, are
inpainted by diffusion from what is left (`imputers.inpainting`): the cost is then of what the
inpainting looks like, too.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from heatproof.data.dataset import LabelledImages
from heatproof.imputers.inpainting import inpainted

RIM = 1 / 64
"""How far around an object inpainting takes pixels away, as a share of the longer side: its edge
and its shadow would give it away."""


@dataclass(frozen=True, eq=False)
class Removals:
    """Images without one of their objects: number n lacks object `thing[n]` of image `image[n]`."""

    photos: tuple[Image.Image, ...]
    image: tuple[int, ...]
    thing: tuple[int, ...]


def removals(data: LabelledImages, rows: range | None = None) -> Removals:
    """Return every image of several objects, without each of its objects in turn.

    rows: the images that are asked for; all of them without it.
    """
    photos: list[Image.Image] = []
    images: list[int] = []
    things: list[int] = []
    for row in range(len(data)) if rows is None else rows:
        count = len(data.things[row])
        # One object alone is beaten by none and beats none.
        if count < 2:
            continue
        photos += list(data.without[row]) if data.without is not None else inpaint(data, row)
        images += [row] * count
        things += list(range(count))
    return Removals(tuple(photos), tuple(images), tuple(things))


def inpaint(data: LabelledImages, row: int) -> list[Image.Image]:
    """Return an image without each of its objects in turn, inpainted."""
    photo = data.photos[row].convert("RGB")
    pixels = torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1)[None].float()
    rim = max(1, math.ceil(RIM * max(photo.size)))
    removed: list[Image.Image] = []
    for instance in data.things[row]:
        hidden = _grown(torch.as_tensor(instance.mask), rim)
        filled = inpainted(pixels, ~hidden[None, None])[0].clamp(0, 255).round().byte()
        removed.append(Image.fromarray(filled.permute(1, 2, 0).numpy()))
    return removed


def _grown(mask: Bool[Tensor, "row col"], rim: int) -> Bool[Tensor, "row col"]:
    near = F.max_pool2d(mask[None, None].float(), 2 * rim + 1, stride=1, padding=rim)
    return near[0, 0] > 0


def removal_costs(
    before: Float[Tensor, " image"], after: Float[Tensor, " removal"], shown: Removals, objects: int
) -> Float[Tensor, "image object"]:
    """Return what removing each object costs its image's score; NaN where nothing was removed.

    Args:
        before: the score of each image with its prompt. after: that of each removal.
        objects: how many columns there are.
    """
    costs = torch.full((len(before), objects), torch.nan, dtype=torch.float64)
    image = torch.tensor(shown.image, dtype=torch.long)
    costs[image, torch.tensor(shown.thing, dtype=torch.long)] = (before[image] - after).double()
    return costs
