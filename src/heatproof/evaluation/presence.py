"""What pictures are asked, and whether the model is right: which objects it sees, which prompts
name one of them and which are absent, and whether the one that is asked for outscores these."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image
from torch import Tensor

from heatproof.data.dataset import Instance
from heatproof.metrics import localisation
from heatproof.models import Model


def seen(
    model: Model,
    photos: Sequence[Image.Image],
    things: Sequence[Sequence[Instance]],
    grid: tuple[int, int],
) -> tuple[Float[Tensor, "image object row col"], Int64[Tensor, "image object"]]:
    """Coverage and label of each object, those that the crop cut off left out (label -1)."""
    most = max(1, max(map(len, things), default=1))
    objects = torch.zeros(len(photos), most, *grid)
    labels = torch.full((len(photos), most), -1)
    for i, (photo, found) in enumerate(zip(photos, things, strict=True)):
        view = model.image.preprocess.view(*photo.size)
        for k, thing in enumerate(found):
            objects[i, k] = localisation.coverage(torch.as_tensor(thing.mask), view, grid)
            if objects[i, k].any():
                labels[i, k] = thing.label
    return objects, labels


def present(labels: Int64[Tensor, "image object"], prompts: int) -> Bool[Tensor, "image prompt"]:
    """Which prompts name an object that is seen."""
    found = torch.zeros(len(labels), prompts + 1, dtype=torch.bool)
    found.scatter_(1, labels.masked_fill(labels < 0, prompts), True)
    return found[:, :prompts]


def drawn(
    chance: Float[Tensor, "image prompt"], allowed: Bool[Tensor, "image prompt"]
) -> Int64[Tensor, " image"]:
    """Of the prompts that are allowed the one with the highest number, or -1 where none is."""
    best = chance.masked_fill(~allowed, -1).argmax(1)
    return torch.where(allowed.any(1), best, -1)


def beaten(
    scores: Float[Tensor, "image prompt"],
    named: Int64[Tensor, " image"],
    present: Bool[Tensor, "image prompt"],
) -> Float[Tensor, " image"]:
    """The share of absent prompts that score less than the named one; ties count as a half.

    A model that knows nothing has a half, one that is right has 1. NaN where nothing is named.
    """
    mine = scores.gather(1, named.clamp(min=0)[:, None])
    wins = (mine > scores).double() + 0.5 * (mine == scores).double()
    share = wins.masked_fill(present, 0).sum(1) / (~present).sum(1)
    return share.masked_fill(named < 0, torch.nan)
