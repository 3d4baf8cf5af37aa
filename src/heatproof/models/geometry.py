"""Where the model looked: patch grid -> the model's view -> the original photograph."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from PIL import Image
from torch import Tensor

Resize = Literal["shortest", "squash", "longest"]


@dataclass(frozen=True)
class View:
    """The part of a photograph that the model saw, in pixels of the photograph.

    The box may reach beyond the photograph where the preprocessing padded it.
    """

    width: int
    height: int
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Preprocess:
    """The model's own preprocessing (`transform`, never re-written) and its geometry.

    `resize` is `shortest` (shortest side to `resize_to` pixels, then centre crop),
    `squash` (both sides, aspect lost) or `longest` (longest side, then centred padding).
    """

    height: int
    width: int
    resize: Resize
    resize_to: int
    transform: Callable[[Image.Image], Tensor]

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        return self.transform(image)

    def view(self, width: int, height: int) -> View:
        """What the model sees of a photograph of `width` x `height` pixels."""
        raise NotImplementedError
