"""The Grad-ECLIP authors' insertion and deletion, kept as they are, and a corrected one.

What is perturbed and how it is put together again; curves and areas are `perturbation`'s.

`AUTHORS` follows imagenet_eval_deletion.py: 100 steps of area / 200 pixels, scored every ten, so
that half of the picture is never touched; pixels ranked by the map, resized bilinearly to the
photograph (whose shorter side is brought down to 640 at most); uniform random colours in place of
what is removed, black around what is inserted; and then the model's own preprocessing.
"""

import numpy as np
import torch
import torchvision.transforms.functional as vision
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from heatproof.metrics.perturbation import Direction, Protocol, noise, ranked, shuffled
from heatproof.models.geometry import Preprocess

FLAWS = (
    "only half of the pixels are ever removed or inserted, so the curve stops in the middle",
    "the picture is cropped after it was perturbed: pixels outside the crop cost nothing",
    "the random colours had no seed (here they have one)",
    "the map of the label is tested, whether or not the model predicts it",
    "maps that saw the crop alone were stretched over the whole photograph",
)
LONGEST_WORK = 640

HALF = tuple(n / 20 for n in range(11))
WHOLE = tuple(n / 10 for n in range(11))

AUTHORS: dict[Direction, Protocol] = {
    "deletion": Protocol("authors' deletion", "deletion", HALF, "noise", "photograph", FLAWS),
    "insertion": Protocol(
        "authors' insertion", "insertion", HALF[1:], "black", "photograph", FLAWS
    ),
}
"""Deletion scores the original and 5 % to 50 % removed. Insertion scores 5 % to 50 % inserted; its
eleventh point is the full picture, which is the deletion's first and stands in no integral."""

CORRECTED: dict[Direction, Protocol] = {
    "deletion": Protocol("corrected deletion", "deletion", WHOLE, "noise", "view"),
    "insertion": Protocol("corrected insertion", "insertion", WHOLE, "black", "view"),
}
"""From nothing to all of the patches that the model sees, whole patches at a time, seeded."""


def worked_on(photo: Image.Image) -> Image.Image:
    """The photograph as the authors perturb it: its shorter side 640 pixels at most."""
    shorter = min(photo.size)
    if shorter <= LONGEST_WORK:
        return photo
    width, height = (round(side * LONGEST_WORK / shorter) for side in photo.size)
    return photo.resize((width, height), Image.Resampling.BICUBIC)


def pixel_order(
    maps: Float[Tensor, "method row col"], photo: Image.Image, seed: int = 0
) -> Int[Tensor, "method cell"]:
    """Pixels of the photograph by falling heat, the map stretched over all of it; equal ones in an
    order that the seed draws, the same for all methods."""
    width, height = photo.size
    values = stretched(maps, (height, width)).flatten(1)
    return ranked(values, one_shuffle(values, seed))


def one_shuffle(values: Float[Tensor, "method cell"], seed: int) -> Int[Tensor, "method cell"]:
    """One order for ties of all methods on one picture, so that they can be paired."""
    return shuffled(torch.tensor([0]), values.shape[1], seed).expand(len(values), -1)


def stretched(
    maps: Float[Tensor, "map row col"], size: tuple[int, int]
) -> Float[Tensor, "map height width"]:
    """Maps bilinearly at the size of a picture."""
    return vision.resize(maps.unsqueeze(1), list(size), antialias=True)[:, 0]


class Photograph:
    """ImageInputs made from a photograph pixel by pixel, then preprocessed as the model does it."""

    def __init__(self, photo: Image.Image, preprocess: Preprocess, protocol: Protocol, seed: int):
        self.pixels: UInt8[np.ndarray, "row col 3"] = np.asarray(photo.convert("RGB"))
        self.preprocess = preprocess
        self.fill = np.zeros_like(self.pixels)
        if protocol.fill == "noise":
            drawn = noise(self.pixels.shape, seed).numpy() * 256
            self.fill = np.clip(drawn, 0, 255).astype(np.uint8)

    def __call__(self, cells: Bool[Tensor, "variant cell"]) -> Float[Tensor, "variant 3 _ _"]:
        made: list[Tensor] = []
        for row in cells.numpy():
            mask = row.reshape(*self.pixels.shape[:2], 1)
            shown = Image.fromarray(np.where(mask, self.pixels, self.fill))
            made.append(self.preprocess(shown))
        return torch.stack(made)


class Seen:
    """ImageInputs made from the pixels that the model sees, whole patches at a time.

    The fill is in the preprocessing's own scale, which is measured: black and white go through it.
    """

    def __init__(
        self,
        pixels: Float[Tensor, "3 height width"],
        grid: tuple[int, int],
        preprocess: Preprocess,
        protocol: Protocol,
        seed: int,
    ):
        self.pixels, self.grid = pixels.cpu(), grid
        black, white = (self._level(preprocess, level) for level in (0, 255))
        drawn = noise(self.pixels.shape, seed) if protocol.fill == "noise" else 0.0
        self.fill = (black + (white - black) * drawn).expand_as(self.pixels)

    @staticmethod
    def _level(preprocess: Preprocess, level: int) -> Float[Tensor, "3 1 1"]:
        side = (preprocess.width, preprocess.height)
        flat = preprocess(Image.new("RGB", side, (level,) * 3))
        middle = flat[:, flat.shape[1] // 2, flat.shape[2] // 2]
        return middle.view(3, 1, 1)

    def __call__(self, cells: Bool[Tensor, "variant cell"]) -> Float[Tensor, "variant 3 _ _"]:
        mask = enlarged(cells, self.grid, (self.pixels.shape[1], self.pixels.shape[2]))
        return torch.where(mask, self.pixels, self.fill)


def enlarged(
    cells: Bool[Tensor, "variant cell"], grid: tuple[int, int], size: tuple[int, int]
) -> Bool[Tensor, "variant 1 height width"]:
    """Whole patches as pixels; what patches do not divide evenly goes to the nearest one."""
    on_grid = cells.view(-1, 1, *grid).float()
    return torch.nn.functional.interpolate(on_grid, size, mode="nearest-exact") > 0.5
