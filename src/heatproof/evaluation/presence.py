"""Tell which objects the model sees, which prompts name one, and which of them it scores right."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, Int64
from PIL import Image
from torch import Tensor

from heatproof.data.dataset import Instance
from heatproof.evaluation.localisation import coverage
from heatproof.models import Model

Scores = Float[Tensor, "image prompt"]
Present = Bool[Tensor, "image prompt"]


def visible_objects(
    model: Model,
    photos: Sequence[Image.Image],
    instances: Sequence[Sequence[Instance]],
    grid: tuple[int, int],
) -> tuple[Float[Tensor, "image object row col"], Int64[Tensor, "image object"]]:
    """Return how much of each patch each object covers, and its label.

    Images with fewer objects than others are filled up with empty ones. These, and objects that
    the crop cut off, have the label -1.
    """
    most = max(1, max(map(len, instances), default=1))
    objects = torch.zeros(len(photos), most, *grid)
    labels = torch.full((len(photos), most), -1)
    for i, (photo, listed) in enumerate(zip(photos, instances, strict=True)):
        view = model.image.preprocess.view(*photo.size)
        for k, instance in enumerate(listed):
            objects[i, k] = coverage(torch.as_tensor(instance.mask), view, grid)
            if objects[i, k].any():
                labels[i, k] = instance.label
    return objects, labels


def prompts_present(labels: Int64[Tensor, "image object"], prompts: int) -> Present:
    """Return which of so many prompts name an object that is visible."""
    present = torch.zeros(len(labels), prompts + 1, dtype=torch.bool)
    # The last column takes the label -1 and is dropped.
    present.scatter_(1, labels.masked_fill(labels < 0, prompts), True)
    return present[:, :prompts]


def of_label(
    labels: Int64[Tensor, "image object"], label: Int64[Tensor, " image"]
) -> Bool[Tensor, "image object"]:
    """Return which objects have their image's `label`; none where that is -1."""
    return (labels == label[:, None]) & (label[:, None] >= 0)


def union(
    objects: Float[Tensor, "image object row col"], chosen: Bool[Tensor, "image object"]
) -> Float[Tensor, "image row col"]:
    """Return how much of each patch the chosen objects cover together."""
    return (objects * chosen[:, :, None, None]).sum(1).clamp(max=1)


def draw_prompt(
    chance: Float[Tensor, "image prompt"], allowed: Bool[Tensor, "image prompt"]
) -> Int64[Tensor, " image"]:
    """Return the allowed prompt of the highest random number; -1 where none is allowed."""
    best = chance.masked_fill(~allowed, -1).argmax(1)
    return torch.where(allowed.any(1), best, -1)


def share_outscored(
    scores: Scores, named: Int64[Tensor, " image"], present: Present
) -> Float[Tensor, " image"]:
    """Return the share of absent prompts that score less than the named one; a tie counts a half.

    A model that knows nothing has a half on average, one that is right has 1. NaN where nothing is
    named.
    """
    own = scores.gather(1, named.clamp(min=0)[:, None])
    # A tie decides nothing: at its expected value, a constant model gets exactly a half.
    wins = (own > scores).double() + 0.5 * (own == scores).double()
    share = wins.masked_fill(present, 0).sum(1) / (~present).sum(1)
    return share.masked_fill(named < 0, torch.nan)


def margin(
    scores: Scores, named: Int[Tensor, " image"], present: Present
) -> Float[Tensor, " image"]:
    """Return the named prompt's score less that of the best absent prompt; infinite without one."""
    own = scores.gather(1, named.clamp(min=0)[:, None])[:, 0]
    return own - scores.masked_fill(present, -torch.inf).amax(1)
