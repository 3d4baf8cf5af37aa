"""Does the map lie on the object that the prompt names, and is the model right about it?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from heatproof.engine.inputs import ImageInputs
from heatproof.evaluation.localisation import chance_of_choice, choice, coverage, energy, pointing
from heatproof.evaluation.presence import margin
from heatproof.evaluation.store import Part
from heatproof.methods import Method
from heatproof.models import Model
from heatproof.reading import Intervention
from heatproof.recipes.grad_eclip_paper.context import Input, preprocessed
from heatproof.recipes.grad_eclip_paper.inputs import Located
from heatproof.recipes.grad_eclip_paper.maps import encode_pictures, encode_texts, image_maps

QUALITIES = ("choice", "pointing", "energy")
"""The first is the one that tables lead with: a map that does not look at the prompt has exactly
chance in it."""


@dataclass(frozen=True, kw_only=True)
class AnsweredImages:
    """Some of the images as the model takes them, with its answers.

    places: their rows in `Located`.
    right: is the named prompt's cosine above that of every prompt that is false of the image?
    """

    places: list[int]
    images: ImageInputs
    targets: Float[Tensor, "item dim"]
    cosines: Float[Tensor, "item prompt"]
    right: Bool[Tensor, " item"]
    margin: Float[Tensor, " item"]


def views(
    model: Model,
    located: Located,
    start: int,
    stop: int,
    how: Input,
    interventions: Mapping[str, Intervention] | None = None,
) -> Iterator[AnsweredImages]:
    """Yield images `start` to `stop` with the model's answers, one group per input size."""
    texts = encode_texts(model, located.prompts)
    photos: Sequence[Image.Image] = located.photos[start:stop]
    for places, images in preprocessed(model, photos, how):
        rows = torch.tensor(places) + start
        embedding = encode_pictures(images.model, images.pixels, interventions)
        cosines = embedding @ texts.T
        named = located.named[rows]
        lead = margin(cosines, named, ~located.absent[rows])
        yield AnsweredImages(
            places=rows.tolist(),
            images=images,
            targets=texts[named],
            cosines=cosines,
            right=lead > 0,
            margin=lead,
        )


def qualities(
    view: AnsweredImages, located: Located, method: Method, seed: int
) -> tuple[Part, Float[Tensor, " item"]]:
    """Compute each quality of each map, and the cosines of the pass that was explained."""
    maps, scores = image_maps(
        view.images.model, method, view.images.pixels, view.targets, seed=seed
    )
    grid = (maps.shape[1], maps.shape[2])
    objects = covers(view, located, grid)
    shaped = maps.float().unsqueeze(1)  # one prompt per image
    named = torch.zeros(len(maps), 1, objects.shape[1], dtype=torch.bool)
    named[:, :, 0] = True
    own = objects[:, :1]
    return {
        "choice": choice(shaped, objects, named)[:, 0],
        "pointing": pointing(shaped, own)[:, 0],
        "energy": energy(shaped, own)[:, 0],
    }, scores


def chances(view: AnsweredImages, located: Located) -> Part:
    """Compute the qualities of a map that knows nothing: the named object's share, and its area."""
    rows, cols = layout(view)
    objects = covers(view, located, (rows, cols))
    named = torch.zeros(len(objects), 1, objects.shape[1], dtype=torch.bool)
    named[:, :, 0] = True
    area = objects[:, 0].mean((1, 2))
    return {
        "choice": chance_of_choice(objects, named)[:, 0],
        "pointing": area,
        "energy": area,
    }


def layout(view: AnsweredImages) -> tuple[int, int]:
    """Return the rows and columns of the patch grid."""
    grid = view.images.model.image.layout(*view.images.pixels.shape[-2:])
    return grid.rows, grid.cols


def covers(
    view: AnsweredImages, located: Located, grid: tuple[int, int]
) -> Float[Tensor, "item object row col"]:
    """Compute the coverage of every object; images with fewer objects get empty ones."""
    coverages = [
        coverage(located.masks(place), geometry, grid)
        for place, geometry in zip(view.places, view.images.views, strict=True)
    ]
    padded = torch.zeros(len(coverages), max(map(len, coverages)), *grid)
    for row, objects in zip(padded, coverages, strict=True):
        row[: len(objects)] = objects
    return padded
