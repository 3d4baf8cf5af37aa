"""The context of every experiment: a model, its inputs, the store of parts, the progress."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from heatproof.engine import inputs
from heatproof.engine.inputs import ImageInputs
from heatproof.evaluation.store import PartStore
from heatproof.models import Model
from heatproof.recipes.grad_eclip_paper.inputs import Material

Input = Literal["native", "keep"]
Watch = Callable[[str, int, int], None]
"""Called with what is being done, how many of its parts are done, and how many there are."""


def _unwatched(doing: str, done: int, total: int) -> None:
    del doing, done, total


@dataclass(frozen=True, eq=False, kw_only=True)
class Study:
    """One run of the experiments.

    double: loads the model in float64; None where that is not measured.
    chunk: images per part, the unit that is stored and resumed.
    """

    model: Model
    double: Callable[[], Model] | None
    material: Material
    store: PartStore
    seed: int
    quick: bool = False
    chunk: int = 50
    watch: Watch = field(default=_unwatched)

    def on(self, model: Model) -> "Study":
        """Return the same study of another model."""
        return replace(self, model=model)

    def parts(self, doing: str, count: int, size: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield start and stop of each part of `count` items, and report the progress."""
        step = size or self.chunk
        starts = range(0, count, step)
        for number, start in enumerate(starts):
            self.watch(doing, number, len(starts))
            yield start, min(start + step, count)
        self.watch(doing, len(starts), len(starts))


def preprocessed(
    model: Model, photos: Sequence[Image.Image], how: Input
) -> Iterator[tuple[list[int], ImageInputs]]:
    """Yield the photos as the model takes them, with their places, one group per input size."""
    groups: dict[tuple[int, int], list[int]] = {}
    opened = [photos[n] for n in range(len(photos))]
    for number, photo in enumerate(opened):
        groups.setdefault(photo.size if how == "keep" else (0, 0), []).append(number)
    for places in groups.values():
        yield places, inputs.images(model, [opened[n] for n in places], how)


def native_pixels(
    model: Model, photos: Sequence[Image.Image]
) -> Float[Tensor, "item 3 height width"]:
    """Preprocess photos as the model itself does, on the CPU."""
    return torch.stack([model.image.preprocess(photos[n]) for n in range(len(photos))])
