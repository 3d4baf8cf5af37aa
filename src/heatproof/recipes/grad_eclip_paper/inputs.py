"""The inputs of the experiments: images to name, objects to find, captions, graded models.

`scenes_material` and `folder_material` make them; the experiments do not know from what.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from heatproof.data.dataset import LabelledImages
from heatproof.models import Model
from heatproof.recipes.grad_eclip_paper.maps import encode_texts, unit


@dataclass(frozen=True, eq=False)
class Task:
    """Zero-shot classification: which of `names` is the image? `prompts`: templates by class."""

    name: str
    photos: Sequence[Image.Image]
    labels: Int[Tensor, " item"]
    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]

    @property
    def chance(self) -> float:
        """Return the accuracy of a guess."""
        return 1 / len(self.names)

    def classifier(self, model: Model, **how: object) -> Float[Tensor, "class dim"]:
        """Return one unit vector per class: the mean over its templates' unit embeddings."""
        flat = [text for templates in self.prompts for text in templates]
        embeddings = encode_texts(model, flat, **how)  # pyright: ignore[reportArgumentType]
        parts = embeddings.split([len(templates) for templates in self.prompts])
        return unit(torch.stack([part.mean(0) for part in parts]))


@dataclass(frozen=True, eq=False, kw_only=True)
class Located:
    """Objects to find.

    masks: by image, the object that prompt `named[n]` names first, then the objects beside it.
    absent: marks the prompts that are false of each image.
    """

    name: str
    photos: Sequence[Image.Image]
    prompts: tuple[str, ...]
    named: Int[Tensor, " item"]
    masks: Callable[[int], Bool[Tensor, "object row col"]]
    objects: Int[Tensor, " item"]
    absent: Bool[Tensor, "item prompt"]


@dataclass(frozen=True, eq=False)
class Captioned:
    """Captions with the images that they are true of."""

    name: str
    photos: Sequence[Image.Image]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Grade:
    """One model of a graded family; `make` is a context in which it exists."""

    name: str
    make: Callable[[], AbstractContextManager[Model]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Material:
    """All inputs. What the data do not hold is None, and the page reports it as not measured.

    counterfactual: images that can be drawn again without one of their objects.
    tasks: for accuracies; `perturbed` is the task whose images are perturbed.
    """

    name: str
    tasks: tuple[Task, ...]
    perturbed: Task | None
    located: Located | None
    captioned: Captioned | None
    family: tuple[Grade, ...]
    family_is: str
    notices: tuple[str, ...] = ()
    counterfactual: LabelledImages | None = None
