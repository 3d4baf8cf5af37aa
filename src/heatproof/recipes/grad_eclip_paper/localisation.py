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
from heatproof.methods import Method
from heatproof.models import Model
from heatproof.reading import Intervention
from heatproof.recipes.grad_eclip_paper.context import Input, seen
from heatproof.recipes.grad_eclip_paper.inputs import Located
from heatproof.recipes.grad_eclip_paper.maps import encode_pictures, encode_texts, image_maps
from heatproof.recipes.grad_eclip_paper.store import Part

QUALITIES = ("choice", "pointing", "energy")
"""The first is the one that tables lead with: a map that does not look at the prompt has exactly
chance in it."""


@dataclass(frozen=True)
class View:
    """Some of the pictures as the model sees them, with its answers.

    `right`: is the named prompt's cosine above that of every prompt that is false of the picture?
    """

    places: list[int]
    pictures: ImageInputs
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
) -> Iterator[View]:
    """ImageInputs `start` to `stop`, a view for each size of input."""
    texts = encode_texts(model, located.prompts)
    photos: Sequence[Image.Image] = located.photos[start:stop]
    for places, pictures in seen(model, photos, how):
        rows = torch.tensor(places) + start
        embedding = encode_pictures(pictures.model, pictures.pixels, interventions)
        cosines = embedding @ texts.T
        named = located.named[rows]
        lead = margin(cosines, named, ~located.absent[rows])
        yield View(rows.tolist(), pictures, texts[named], cosines, lead > 0, lead)


def qualities(
    view: View, located: Located, method: Method, seed: int
) -> tuple[Part, Float[Tensor, " item"]]:
    """Each quality of each map, and the cosines of the pass that was explained."""
    maps, scores = image_maps(
        view.pictures.model, method, view.pictures.pixels, view.targets, seed=seed
    )
    grid = (maps.shape[1], maps.shape[2])
    objects = covers(view, located, grid)
    asked = maps.float().unsqueeze(1)
    named = torch.zeros(len(maps), 1, objects.shape[1], dtype=torch.bool)
    named[:, :, 0] = True
    own = objects[:, :1]
    return {
        "choice": choice(asked, objects, named)[:, 0],
        "pointing": pointing(asked, own)[:, 0],
        "energy": energy(asked, own)[:, 0],
    }, scores


def chances(view: View, located: Located) -> Part:
    """What a map that knows nothing gets: the named objects' share, and its area."""
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


def layout(view: View) -> tuple[int, int]:
    found = view.pictures.model.image.layout(*view.pictures.pixels.shape[-2:])
    return found.rows, found.cols


def covers(
    view: View, located: Located, grid: tuple[int, int]
) -> Float[Tensor, "item object row col"]:
    """Coverage of every object; pictures with fewer of them get empty ones."""
    found = [
        coverage(located.masks(place), geometry, grid)
        for place, geometry in zip(view.places, view.pictures.views, strict=True)
    ]
    padded = torch.zeros(len(found), max(len(each) for each in found), *grid)
    for row, each in zip(padded, found, strict=True):
        row[: len(each)] = each
    return padded
