"""The Grad-ECLIP authors' insertion and deletion, kept as they are, and a corrected one.

The metrics `grad-eclip-deletion` and `grad-eclip-insertion` perturb the pixels that the model sees.
Here the photo itself is perturbed, as the authors do it, with many rankings of one image at once.

`AUTHORS` follows imagenet_eval_deletion.py: 100 steps of area / 200 pixels, scored every ten, so
that half of the image is never touched; pixels ranked by the map, resized bilinearly to the photo
(whose shorter side is brought down to 640 at most); uniform random colours in place of what is
removed, black around what is inserted; and then the model's own preprocessing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from heatproof.imputers.fills import between, enlarged, noise
from heatproof.metrics.grad_eclip_perturbation import HALF
from heatproof.metrics.perturbation_curves import Direction
from heatproof.metrics.ranking import places, ranked, shuffled, stretched
from heatproof.models.geometry import Preprocess

FLAWS = (
    "only half of the pixels are ever removed or inserted, so the curve stops in the middle",
    "the picture is cropped after it was perturbed: pixels outside the crop cost nothing",
    "the random colours had no seed (here they have one)",
    "the map of the label is tested, whether or not the model predicts it",
    "maps that saw the crop alone were stretched over the whole photograph",
)
LONGEST_WORK = 640

BETTER: dict[Direction, Literal["lower", "higher"]] = {"deletion": "lower", "insertion": "higher"}
WHOLE = tuple(n / 10 for n in range(11))


@dataclass(frozen=True)
class Protocol:
    """How images are perturbed. `fill` stands where nothing of the image is shown.

    `space` is what is perturbed: the `photograph`, which then goes through the model's own
    preprocessing, or the `view`, the pixels that the model really sees. `flaws` are named on the
    page wherever its numbers stand.
    """

    name: str
    direction: Direction
    fractions: tuple[float, ...]
    fill: Literal["noise", "black"]
    space: Literal["photograph", "view"]
    flaws: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.fractions) < 2 or list(self.fractions) != sorted(set(self.fractions)):
            raise ValueError(f"fractions must be two or more and rise, got {self.fractions}")
        if not 0 <= self.fractions[0] < self.fractions[-1] <= 1:
            raise ValueError(f"fractions must lie in [0, 1], got {self.fractions}")


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
    """Resize the photo as the authors perturb it: its shorter side 640 pixels at most."""
    shorter = min(photo.size)
    # Small photos are not enlarged: that would invent pixels.
    if shorter <= LONGEST_WORK:
        return photo
    width, height = (round(side * LONGEST_WORK / shorter) for side in photo.size)
    return photo.resize((width, height), Image.Resampling.BICUBIC)


def pixel_order(
    maps: Float[Tensor, "method row col"], photo: Image.Image, seed: int = 0
) -> Int[Tensor, "method cell"]:
    """Rank the photo's pixels by falling heat, the map stretched over all of it.

    Ties go in an order that the seed draws, the same for all methods.
    """
    width, height = photo.size
    values = stretched(maps, (height, width)).flatten(1)
    return ranked(values, one_shuffle(values, seed))


def one_shuffle(values: Float[Tensor, "method cell"], seed: int) -> Int[Tensor, "method cell"]:
    """Draw one order for ties of all methods on one image, so that they can be paired."""
    return shuffled(torch.tensor([0]), values.shape[1], seed).expand(len(values), -1)


def shown(
    order: Int[Tensor, "item cell"], fraction: float, direction: Direction
) -> Bool[Tensor, "item cell"]:
    """Mark the cells that still show the image once `fraction` of them, in `order`, changed."""
    # Rounded: at each fraction a whole number of cells has changed.
    changed = places(order) < round(fraction * order.shape[1])
    return changed if direction == "insertion" else ~changed


def curves(
    score: Callable[[Float[Tensor, "variant 3 height width"]], Float[Tensor, "variant kind"]],
    picture: Callable[[Bool[Tensor, "variant cell"]], Float[Tensor, "variant 3 height width"]],
    orders: Int[Tensor, "method cell"],
    protocol: Protocol,
    *,
    batch_size: int = 128,
) -> Float[Tensor, "method point kind"]:
    """Compute the curves of one image, one per ranking of its cells.

    Args:
        score: of a batch of images, any number of kinds each (a cosine, a hit, ...).
        picture: makes the images in which these cells show the original and the others do not.

    Each distinct image is scored once: rankings that agree share their passes, and all of them
    share the points where everything or nothing is shown.
    """
    cells = torch.stack([shown(orders, f, protocol.direction) for f in protocol.fractions], dim=1)
    rows = cells.flatten(0, 1)
    # Equal sets of cells make equal images: each is scored once.
    place: dict[bytes, int] = {}
    source = [place.setdefault(row.numpy().tobytes(), len(place)) for row in rows]
    first = torch.tensor([source.index(n) for n in range(len(place))])
    found = [score(picture(part)).float().cpu() for part in rows[first].split(batch_size)]
    return torch.cat(found)[torch.tensor(source)].unflatten(0, (orders.shape[0], -1))


class Photograph:
    """Images made from a photo pixel by pixel, then preprocessed as the model does it."""

    def __init__(self, photo: Image.Image, preprocess: Preprocess, protocol: Protocol, seed: int):
        self.pixels: UInt8[np.ndarray, "row col 3"] = np.asarray(photo.convert("RGB"))
        self.preprocess = preprocess
        self.fill = np.zeros_like(self.pixels)
        if protocol.fill == "noise":
            # Unseeded in the authors' code; here every run draws the same colours.
            drawn = noise(self.pixels.shape, seed).numpy() * 256
            self.fill = np.clip(drawn, 0, 255).astype(np.uint8)

    def __call__(self, cells: Bool[Tensor, "variant cell"]) -> Float[Tensor, "variant 3 _ _"]:
        images: list[Tensor] = []
        for row in cells.numpy():
            mask = row.reshape(*self.pixels.shape[:2], 1)
            # Perturbed before the crop, as the authors do: pixels outside of it cost nothing.
            shown = Image.fromarray(np.where(mask, self.pixels, self.fill))
            images.append(self.preprocess(shown))
        return torch.stack(images)


class PatchedView:
    """Images made from the pixels that the model sees, whole patches at a time."""

    def __init__(
        self,
        pixels: Float[Tensor, "3 height width"],
        grid: tuple[int, int],
        preprocess: Preprocess,
        protocol: Protocol,
        seed: int,
    ):
        self.pixels, self.grid = pixels.cpu(), grid
        black, white = (preprocess.level(value).view(3, 1, 1) for value in (0, 255))
        # Between preprocessed black and white: the noise stays in the range of images.
        share = noise(self.pixels.shape, seed) if protocol.fill == "noise" else torch.zeros(3, 1, 1)
        self.fill = between(black, white, share).expand_as(self.pixels)

    def __call__(self, cells: Bool[Tensor, "variant cell"]) -> Float[Tensor, "variant 3 _ _"]:
        mask = enlarged(cells, self.grid, (self.pixels.shape[1], self.pixels.shape[2]))
        return torch.where(mask, self.pixels, self.fill)
