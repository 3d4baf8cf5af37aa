"""What the experiments run on: pictures to name, objects to find, captions to read, graded models.

`scenes_material` and `folder_material` make it; the experiments do not know from what.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from heatproof.models import Model
from heatproof.recipes.grad_eclip_paper.maps import encode_texts, unit


@dataclass(frozen=True, eq=False)
class Task:
    """Zero-shot naming: which of `names` is the picture? `prompts` are each class's templates."""

    name: str
    photos: Sequence[Image.Image]
    labels: Int[Tensor, " item"]
    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]

    @property
    def chance(self) -> float:
        return 1 / len(self.names)

    def classifier(self, model: Model, **how: object) -> Float[Tensor, "class dim"]:
        """A unit vector a class: the mean over its templates' unit embeddings."""
        flat = [text for each in self.prompts for text in each]
        found = encode_texts(model, flat, **how)  # pyright: ignore[reportArgumentType]
        parts = found.split([len(each) for each in self.prompts])
        return unit(torch.stack([part.mean(0) for part in parts]))


@dataclass(frozen=True, eq=False)
class Located:
    """Objects to find. `masks[n][0]` is the object that prompt `named[n]` speaks of, the others
    those beside it; `absent[n]` marks the prompts that are false of picture n."""

    name: str
    photos: Sequence[Image.Image]
    prompts: tuple[str, ...]
    named: Int[Tensor, " item"]
    masks: Callable[[int], Bool[Tensor, "object row col"]]
    objects: Int[Tensor, " item"]
    absent: Bool[Tensor, "item prompt"]


@dataclass(frozen=True, eq=False)
class Captioned:
    """Captions with the pictures that they are true of."""

    name: str
    photos: Sequence[Image.Image]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Grade:
    """One model of a graded family; `make` is a context in which it exists."""

    name: str
    make: Callable[[], AbstractContextManager[Model]]


@dataclass(frozen=True, eq=False)
class Material:
    """All of it; what the data do not hold is None, and the page says that it was not measured.

    `tasks` are for accuracies; `perturbed` is the task whose pictures are perturbed.
    """

    name: str
    tasks: tuple[Task, ...]
    perturbed: Task | None
    located: Located | None
    captioned: Captioned | None
    family: tuple[Grade, ...]
    family_is: str
    notices: tuple[str, ...] = ()
