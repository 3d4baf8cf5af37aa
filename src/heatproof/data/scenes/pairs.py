"""Scenes for every pair of colour and shape, those never trained included.

Each image holds one object of its pair, one of the same colour in another shape and one of the same
shape in another colour: neither word alone finds the named object.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from heatproof.data.dataset import Instance, LabelledImages
from heatproof.data.scenes.captions import combinations
from heatproof.data.scenes.chance import uniforms
from heatproof.data.scenes.counterfactual import images_without
from heatproof.data.scenes.dataset import UNSEEN
from heatproof.data.scenes.renderer import render
from heatproof.data.scenes.scene import Scenes, sample
from heatproof.data.scenes.vocabulary import ATTRIBUTES, COLOURS, SHAPES
from heatproof.errors import InputError

# Further off than the seeds of any card, audit or benchmark.
_FIRST = UNSEEN + (4000 << 32)
_STREAM = 92
PAIRS = len(COLOURS) * len(SHAPES)


def pair_scenes(each_pair: int, *, seed: int = 0) -> Scenes:
    """Draw `each_pair` scenes for each of the 64 pairs, in turn: scene n has pair n modulo 64.

    The named object's slot is drawn, so that it is as often behind others as in front of them.

    Raises:
        InputError: fewer than one scene per pair.
    """
    if each_pair < 1:
        raise InputError(f"got {each_pair} scenes per pair, expected at least 1")
    count = each_pair * PAIRS
    first = _FIRST + (seed << 24)
    scenes = sample(torch.arange(first, first + count), objects=3)
    u = uniforms(scenes.seeds, _STREAM, 2 + 3)
    pair = torch.arange(count) % PAIRS
    colour, shape = pair // len(SHAPES), pair % len(SHAPES)
    # One step to seven steps on: never the named one itself.
    other_shape = (shape + 1 + (u[:, 0] * (len(SHAPES) - 1)).long()) % len(SHAPES)
    other_colour = (colour + 1 + (u[:, 1] * (len(COLOURS) - 1)).long()) % len(COLOURS)
    drawn = torch.stack(
        [
            torch.stack([colour, shape], 1),
            torch.stack([colour, other_shape], 1),
            torch.stack([other_colour, shape], 1),
        ],
        1,
    )
    order = u[:, 2:].argsort(1)
    attributes = scenes.attributes.clone()
    where = [ATTRIBUTES.index("colour"), ATTRIBUTES.index("shape")]
    attributes[:, :3, where] = drawn.gather(1, order[..., None].expand(-1, -1, 2))
    return replace(scenes, attributes=attributes)


def pair_images(each_pair: int, *, seed: int = 0) -> LabelledImages:
    """Return the images of `pair_scenes`; the prompts are "a COLOUR SHAPE", pair by pair."""
    scenes = pair_scenes(each_pair, seed=seed)
    labels = labels_of(scenes)
    photos: list[Image.Image] = []
    things: list[tuple[Instance, ...]] = []
    without: list[tuple[Image.Image, ...]] = []
    for start in range(0, len(scenes), 64):
        images, masks = render(scenes[start : start + 64])
        photos += [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        for row, visible in enumerate(masks, start):
            slots = [k for k in range(3) if visible[k].any()]
            things.append(tuple(Instance(int(labels[row, k]), visible[k].numpy()) for k in slots))
            without.append(images_without(scenes, row, slots))
    return LabelledImages(
        name="scenes, colour and shape",
        photos=tuple(photos),
        things=tuple(things),
        prompts=tuple(caption.text for caption in combinations()),
        seed=seed,
        without=tuple(without),
    )


def labels_of(scenes: Scenes) -> Int64[Tensor, "scene object"]:
    """Return the number of each object's pair: colour times eight plus shape; -1 without object."""
    colour, shape = (scenes.attributes[..., ATTRIBUTES.index(n)] for n in ("colour", "shape"))
    return torch.where(scenes.present, colour * len(SHAPES) + shape, -1)
