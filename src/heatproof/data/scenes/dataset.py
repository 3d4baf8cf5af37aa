"""Scenes as a torch `Dataset` of dictionaries."""

from __future__ import annotations

import random
from typing import TypedDict

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from heatproof.data.scenes.captions import Caption, absent, captions_of
from heatproof.data.scenes.renderer import PIXELS, render
from heatproof.data.scenes.scene import Combinations, Scene, sample

UNSEEN = 1 << 60
"""First of the seeds that training never draws: use it and those above for scoring."""


class Example(TypedDict):
    """Hold one image of a scene, its objects' masks, and its captions."""

    scene: Scene
    picture: UInt8[Tensor, "3 row col"]
    masks: Bool[Tensor, "object row col"]
    captions: list[Caption]
    """True of the scene."""
    absent: list[Caption]
    """Captions of a colour and a shape that are false of it."""


class SceneDataset(Dataset[Example]):
    """Scenes with images, masks and captions, drawn when asked for; seed `first` is item 0."""

    def __init__(
        self,
        count: int,
        *,
        first: int = UNSEEN,
        pixels: int = PIXELS,
        difficulty: float = 1.0,
        combinations: Combinations = "trained",
        objects: int | None = None,
    ) -> None:
        self.count, self.first, self.pixels = count, first, pixels
        self.difficulty, self.objects = difficulty, objects
        self.combinations: Combinations = combinations

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.count:
            raise IndexError(f"got item {index} of {self.count} scenes")
        seed = self.first + index
        drawn = sample(
            torch.tensor([seed]),
            difficulty=self.difficulty,
            combinations=self.combinations,
            objects=self.objects,
        )
        pictures, masks = render(drawn, pixels=self.pixels)
        scene = drawn.described()[0]
        return Example(
            scene=scene,
            picture=pictures[0],
            masks=masks[0, : len(scene.objects)],
            captions=captions_of(scene, random.Random(seed)),
            absent=absent(scene),
        )
