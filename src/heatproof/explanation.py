"""What comes out: signed maps or word values, with scores, geometry and certificate."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from heatproof import checking
from heatproof.certificate import Certificate
from heatproof.errors import UnknownName
from heatproof.images import Photo
from heatproof.models.geometry import View


@dataclass(frozen=True)
class Record:
    """What made an explanation, in plain values that go to JSON as they are.

    `signs` say what negative and what positive values mean: see `Card.signs`.
    """

    model: str
    method: str
    settings: dict[str, Any]
    score: str
    prompts: tuple[str, ...]
    seed: int
    notices: tuple[str, ...] = ()
    image_size: str = "native"
    signs: tuple[str, str] | None = None


@dataclass(frozen=True)
class Word:
    """A word of a prompt, its characters, and the sum of its tokens' values."""

    text: str
    start: int
    end: int
    value: float


@dataclass(frozen=True)
class Explanation:
    """Signed, unnormalised maps on the patch grid; `photos` is empty where tensors came in.

    `scores` are the untouched model's, `explained_scores` those of the pass that was explained: the
    same but for rounding, unless the method changes the model.
    """

    maps: Float[Tensor, "image prompt row col"]
    scores: Float[Tensor, "image prompt"]
    explained_scores: Float[Tensor, "image prompt"]
    certificate: Certificate
    record: Record
    photos: tuple[Photo, ...] = ()
    views: tuple[View, ...] = ()

    def overlay(self, image: int = 0, prompt: int | str = 0) -> Image.Image:
        """The map on the original photograph, on the scale shared by all of the image's prompts."""
        from heatproof.plots.overlay import overlay

        image = checking.index("image", image, len(self.maps))
        return overlay(self, image, self.index(prompt))

    def index(self, prompt: int | str) -> int:
        """The number of a prompt, from its text or its number.

        Raises:
            UnknownName: no prompt reads so; InputError: no prompt has this number.
        """
        known = self.record.prompts
        if isinstance(prompt, str):
            if prompt not in known:
                raise UnknownName("prompt", prompt, known)
            return known.index(prompt)
        return checking.index("prompt", prompt, len(known))

    def save(self, folder: str | Path) -> Path:
        """Write every file of the contract into `folder`; returns the path of the report."""
        from heatproof.pages.bundle import save

        return save(self, None, checking.path("folder", folder))


@dataclass(frozen=True)
class WordExplanation:
    """`maps[image][prompt]` holds one signed value per token; `words` the same merged to words.

    Scores are those of `Explanation`.
    """

    maps: list[list[Float[Tensor, " _token"]]]
    words: list[list[tuple[Word, ...]]]
    tokens: list[tuple[str, ...]]
    scores: Float[Tensor, "image prompt"]
    explained_scores: Float[Tensor, "image prompt"]
    certificate: Certificate
    record: Record
    photos: tuple[Photo, ...] = field(default=())
