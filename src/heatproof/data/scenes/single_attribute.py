"""Scenes that ask for one attribute alone, so that no other one gives the object away.

All objects of a scene share the distractor attribute (the colour where shapes are asked for) and
differ in the attribute that is asked for: colour finds no object here, and the named one is
unique. Sizes, textures and places are as in training; scenes have two, three and four objects in
turn, so that any first part of them is balanced.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Literal

import torch
from jaxtyping import Float64
from PIL import Image
from torch import Tensor

from heatproof.data.dataset import Instance, LabelledImages
from heatproof.data.lazy import Lazy
from heatproof.data.scenes.captions import singles
from heatproof.data.scenes.chance import uniforms
from heatproof.data.scenes.counterfactual import images_without
from heatproof.data.scenes.dataset import UNSEEN
from heatproof.data.scenes.renderer import PIXELS, render
from heatproof.data.scenes.scene import MOST_OBJECTS, Scenes, sample
from heatproof.data.scenes.vocabulary import ATTRIBUTES, COLOURS, HELD_OUT, SHAPES
from heatproof.errors import InputError

# Scoring takes parts 0 to 20 of the unseen seeds; these are further off than any it will take.
FIRST = UNSEEN + (1000 << 32)
OBJECTS = (2, 3, 4)
AT_ONCE = 64
Asked = Literal["shape", "colour"]


def asked(
    count: int = 300, attribute: Asked = "shape", *, seed: int = 0, pixels: int = PIXELS
) -> LabelledImages:
    """Draw `count` scenes whose objects differ in `attribute` and share the other one."""
    scenes = drawn(count, attribute, seed)
    pictures, masks = _rendered(scenes, pixels)
    labels = scenes.attributes[..., ATTRIBUTES.index(attribute)]
    seen = scenes.present & masks.flatten(2).any(2)
    slots = [[k for k in range(MOST_OBJECTS) if seen[i, k]] for i in range(count)]
    things = tuple(
        tuple(Instance(int(labels[i, k]), masks[i, k].numpy()) for k in slots[i])
        for i in range(count)
    )
    photos = tuple(Image.fromarray(p.permute(1, 2, 0).numpy()) for p in pictures)
    prompts = tuple(caption.text for caption in singles(attribute))
    return LabelledImages(
        name=f"scenes, {attribute}",
        photos=photos,
        things=things,
        prompts=prompts,
        seed=seed,
        without=Lazy(lambda i: images_without(scenes, i, slots[i], pixels=pixels), range(count)),
    )


def _rendered(scenes: Scenes, pixels: int) -> tuple[Tensor, Tensor]:
    """Render some scenes at a time: rendering takes many times the memory of its images."""
    numbers = torch.arange(len(scenes)).split(AT_ONCE)
    parts = [render(scenes[rows], pixels=pixels) for rows in numbers]
    pictures, masks = (torch.cat(each) for each in zip(*parts, strict=True))
    return pictures, masks


def drawn(count: int, attribute: Asked, seed: int) -> Scenes:
    """Return the scenes behind `asked`."""
    if count < 1:
        raise InputError(f"got {count} scenes to draw, expected at least 1")
    first = FIRST + (seed << 24)
    seeds = torch.arange(first, first + count, dtype=torch.int64)
    turns = [(seeds[n :: len(OBJECTS)], k) for n, k in enumerate(OBJECTS)]
    together = _concatenated([sample(part, objects=k) for part, k in turns if len(part)])
    scenes = together[together.seeds.argsort()]
    shape, colour = _unique_and_shared(uniforms(seeds, 91, 16), attribute)
    attributes = scenes.attributes.clone()
    attributes[..., ATTRIBUTES.index("shape")] = shape
    attributes[..., ATTRIBUTES.index("colour")] = colour
    attributes[~scenes.present] = -1
    return replace(scenes, attributes=attributes)


def _concatenated(parts: list[Scenes]) -> Scenes:
    return Scenes(
        **{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Scenes)}
    )


def _unique_and_shared(u: Float64[Tensor, "scene 16"], attribute: Asked) -> tuple[Tensor, Tensor]:
    """Draw shape and colour (scene, object): one all different, one the same, none held out."""
    different = u[:, :8].argsort(1)[:, :MOST_OBJECTS]
    allowed = torch.ones(len(SHAPES), len(COLOURS), dtype=torch.bool)
    for shape, colour in HELD_OUT:
        allowed[shape, colour] = False
    # (scene, colour or shape): what may be shared by all of a scene's objects.
    fits = (allowed if attribute == "shape" else allowed.T)[different].all(1)
    shared = (u[:, 8:] * fits).argmax(1, keepdim=True).expand_as(different)
    return (different, shared) if attribute == "shape" else (shared, different)
