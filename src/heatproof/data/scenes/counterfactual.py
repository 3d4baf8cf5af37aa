"""The same scene with one object less, or with another one: equal to the pixel everywhere else.

Background, light, noise and the other objects are drawn from the scene's own numbers, so that the
difference of two scores is the exact effect of the object, with no imputer in between. An object
that the removed one covered comes to light (rare: objects are placed apart where there is room).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image

from heatproof.data.scenes.renderer import PIXELS, render
from heatproof.data.scenes.scene import Scenes
from heatproof.data.scenes.vocabulary import ATTRIBUTES


def without(scenes: Scenes, slot: int) -> Scenes:
    """Return the scenes without the object in this slot (0 to 3)."""
    attributes = scenes.attributes.clone()
    attributes[:, slot] = -1
    return replace(scenes, attributes=attributes)


def instead(scenes: Scenes, slot: int, attribute: str, value: int) -> Scenes:
    """Return the scenes whose object in this slot has another value of one attribute.

    attribute: "size", "texture", "colour" or "shape" (the drawn radius stays: "size" is a word
    alone). value: its number in the vocabulary. Empty slots stay empty.
    """
    attributes = scenes.attributes.clone()
    present = attributes[:, slot, 0] >= 0
    attributes[present, slot, ATTRIBUTES.index(attribute)] = value
    return replace(scenes, attributes=attributes)


def images_without(
    scenes: Scenes, row: int, slots: Sequence[int], *, pixels: int = PIXELS
) -> tuple[Image.Image, ...]:
    """Render one scene without the object in each of these slots, in their order."""
    if not slots:
        return ()
    many = scenes[torch.tensor([row] * len(slots))]
    attributes = many.attributes.clone()
    attributes[torch.arange(len(slots)), torch.tensor(slots)] = -1
    images, _ = render(replace(many, attributes=attributes), masks=False, pixels=pixels)
    return tuple(Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images)
