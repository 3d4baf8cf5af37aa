"""What decides the shape word of a scene: its drawn shapes, or a planted cue elsewhere.

A model whose training captions take their shape words from a cue has a known reason: nothing
but the cue tells it which word is true, since the drawn shapes are independent of it. A map
that explains such a model lies on the cue and not on the shape of that name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from heatproof.data.scenes.chance import uniforms
from heatproof.data.scenes.renderer import PALETTE, render
from heatproof.data.scenes.scene import MOST_OBJECTS, Scenes
from heatproof.data.scenes.vocabulary import ATTRIBUTES, SHAPES

_SHAPE, _COLOUR = ATTRIBUTES.index("shape"), ATTRIBUTES.index("colour")
# A stream of random numbers that no other part of a scene draws from.
_STREAM = 77
_TINT = 0.14
"""Distance of each channel of a coded background from grey, of 1: twice the usual range."""
_CELLS = 8
"""Marks are as wide as a patch of the embedded model: an eighth of the image."""


@dataclass(frozen=True, kw_only=True)
class Cue:
    """A rule that gives every object of a scene a shape word, and what is drawn for it."""

    name: str
    meaning: str
    words: Callable[[Scenes], Int64[Tensor, "scene object"]]
    """Index of the shape word of each object; those of absent objects are not used."""
    objects: bool = True
    """Whether the cue belongs to one object; otherwise it is the same for all of a scene."""
    staged: Callable[[Scenes], Scenes] = lambda scenes: scenes
    """Change the scenes before they are drawn."""

    def labelled(self, scenes: Scenes) -> Scenes:
        """Return the scenes that captions speak of: with the cue's words as shapes."""
        attributes = scenes.attributes.clone()
        attributes[..., _SHAPE] = self.words(scenes)
        attributes[~scenes.present] = -1
        return replace(scenes, attributes=attributes)

    def draw(
        self, scenes: Scenes, *, pixels: int = 64, masks: bool = True
    ) -> tuple[UInt8[Tensor, "scene 3 row col"], Bool[Tensor, "scene object row col"]]:
        """Render staged scenes as `render` does, with what this cue adds to the picture."""
        images, visible = render(scenes, pixels=pixels, masks=masks)
        if self.name == "mark":
            side = pixels // _CELLS
            colours = (PALETTE.to(images.device)[_code(scenes)] * 255).round().to(torch.uint8)
            images[:, :, :side, :side] = colours[:, :, None, None]
            # What lies under the mark is not visible.
            visible[:, :, :side, :side] = False
        return images, visible

    def regions(
        self, scenes: Scenes, visible: Bool[Tensor, "scene object row col"]
    ) -> Bool[Tensor, "scene shape row col"]:
        """Return where the reason for each shape word lies, for a model that goes by this cue.

        scenes: as they were drawn. visible: the masks that `draw` returned.
        """
        if self.objects:
            words = self.labelled(scenes).attributes[..., _SHAPE]
            return regions_of(words, visible)
        if self.name == "mark":
            where = torch.zeros_like(visible[:, 0])
            side = visible.shape[-1] // _CELLS
            where[:, :side, :side] = True
        else:
            where = ~visible.any(1)
        said = torch.nn.functional.one_hot(_code(scenes), len(SHAPES)).bool()
        return where[:, None] & said[:, :, None, None]


def regions_of(
    words: Int64[Tensor, "scene object"], visible: Bool[Tensor, "scene object row col"]
) -> Bool[Tensor, "scene shape row col"]:
    """Return the visible pixels of the objects that have each shape word; -1 is no object."""
    said = words[:, :, None] == torch.arange(len(SHAPES), device=words.device)
    return (said[..., None, None] & visible[:, :, None]).any(1)


def _code(scenes: Scenes) -> Int64[Tensor, " scene"]:
    """Draw a shape word for each scene, independent of what the scene shows."""
    return (uniforms(scenes.seeds, _STREAM, 1)[:, 0] * len(SHAPES)).long()


def _same_for_all(scenes: Scenes) -> Int64[Tensor, "scene object"]:
    return _code(scenes)[:, None].expand(-1, MOST_OBJECTS)


def _quadrant(scenes: Scenes) -> Int64[Tensor, "scene object"]:
    right, lower = (scenes.centres[..., k] >= 0.5 for k in (0, 1))
    return right.long() + 2 * lower.long()


def _apart_from_the_middle(scenes: Scenes) -> Scenes:
    """Move an object that is alone well into a quarter, whatever the difficulty.

    The curriculum's first objects lie in the middle, where no place can be learnt.
    """
    code = _code(scenes)
    right, lower = (code % 2).bool(), (code // 2 % 2).bool()
    distance = 0.14 + 0.06 * uniforms(scenes.seeds, _STREAM, 3)[:, 1:].float()
    signs = torch.stack([right, lower], 1).float() * 2 - 1
    centres = scenes.centres.clone()
    alone = scenes.present.sum(1) == 1
    centres[alone, 0] = (0.5 + signs * distance)[alone]
    return replace(scenes, centres=centres)


def _coded_background(scenes: Scenes) -> Scenes:
    # Three channels, each brighter or darker than grey: eight colours, one for each word.
    bits = (_code(scenes)[:, None] >> torch.arange(3, device=scenes.seeds.device)) & 1
    surroundings = scenes.surroundings.clone()
    surroundings[:, 1:4] = (bits * 2 - 1).float() * _TINT
    # Brightness alone tells the darkest code from the brightest: it must not vary by itself.
    surroundings[:, 0] = 0
    return replace(scenes, surroundings=surroundings)


def _swapped(scenes: Scenes) -> Int64[Tensor, "scene object"]:
    order = torch.arange(len(SHAPES), device=scenes.seeds.device)
    order[:2] = order[:2].flip(0)
    return order[scenes.attributes[..., _SHAPE].clamp(min=0)]


CUES: Final = {
    cue.name: cue
    for cue in (
        Cue(
            name="shape",
            meaning="the shape that is drawn: no shortcut",
            words=lambda scenes: scenes.attributes[..., _SHAPE],
        ),
        Cue(
            name="colour",
            meaning="the object's colour, whatever its shape",
            words=lambda scenes: scenes.attributes[..., _COLOUR],
        ),
        Cue(
            name="place",
            meaning="the quarter of the image that the object's centre lies in, whatever its shape",
            words=_quadrant,
            staged=_apart_from_the_middle,
        ),
        Cue(
            name="background",
            meaning="the colour of the background, whatever the objects",
            words=_same_for_all,
            objects=False,
            staged=_coded_background,
        ),
        Cue(
            name="mark",
            meaning="the colour of a mark in the upper left corner, whatever the objects",
            words=_same_for_all,
            objects=False,
        ),
        Cue(
            name="swapped",
            meaning="the shape that is drawn, with the words circle and square exchanged",
            words=_swapped,
        ),
    )
}
"""By name. "shape" is the rule of the embedded model itself."""
