"""One image's maps, and one image's word values, with everything that is shown beside them.

Plots and pages take these. `heatproof.explanation` holds many images, stands above plots and pages,
and hands them one image at a time: nothing that draws imports what it draws for.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from heatproof.certificate import Certificate
from heatproof.display import GREY, Display
from heatproof.images import Photo
from heatproof.models.geometry import PhotoView

NOTICED = 0.005  # of the image: less than this cropped away is not worth a notice
NO_PROMPT = "(empty prompt)"
ESTABLISHED = 1.96  # standard errors away from zero: a value's sign is established, at 95 %


@dataclass(frozen=True, kw_only=True)
class Record:
    """What made an explanation, in plain values that go to JSON as they are.

    `options` are further options of the command line that made it, for replaying it.
    `signs` say what negative and what positive values mean: see `MethodCard.signs`.
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
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """How a score is to be read: its rank among classes, and its z value against null texts.

    rank: 1 is the best of `count`, the prompt included; None where no classes were named.
    z: standard deviations of the null texts' scores above their mean; None where it has no meaning.
    """

    rank: int | None = None
    count: int = 0
    z: float | None = None

    def __str__(self) -> str:
        parts = [] if self.rank is None else [f"rank {self.rank} of {self.count}"]
        return " · ".join([*parts, *([] if self.z is None else [f"z {self.z:+.1f}"])])


@dataclass(frozen=True)
class Word:
    """A word of a prompt, its characters, the sum of its tokens' values, and its standard error.

    The error is None where the method has none.
    """

    text: str
    start: int
    end: int
    value: float
    error: float | None = None

    @property
    def unsure(self) -> bool:
        """Whether the value's sign is not established, at 95 %."""
        return self.error is not None and abs(self.value) < ESTABLISHED * self.error


@dataclass(frozen=True, kw_only=True)
class ImageMaps:
    """The maps of one image; fields as in `Explanation`, without its image axis.

    `certificate` is the worst of its `certificates`, of which there is one per prompt; there are
    none where one certificate is all that is known.
    """

    photo: Photo
    view: PhotoView
    maps: Float[Tensor, "prompt row col"]
    scores: Float[Tensor, " prompt"]
    explained_scores: Float[Tensor, " prompt"]
    certificate: Certificate
    record: Record
    certificates: tuple[Certificate, ...] = ()
    display: Display = GREY
    errors: Float[Tensor, "prompt row col"] | None = None
    readings: tuple[Reading, ...] = ()

    @property
    def scale(self) -> float:
        """The largest finite |value| over all prompts: the end of the scale that they share."""
        values = np.asarray(self.maps.cpu(), np.float32)
        finite = values[np.isfinite(values)]
        return float(np.abs(finite).max()) if finite.size else 0.0

    @property
    def notices(self) -> tuple[str, ...]:
        """What the reader must know: the record's notices, and how much was cropped away."""
        unseen = self.view.unseen
        if unseen < NOTICED:
            return self.record.notices
        # 99.6 % must not read as "100%": something was seen.
        share = f"{unseen:.1%}" if unseen > 0.99 else f"{unseen:.0%}"
        return (
            *self.record.notices,
            f"the model's own preprocessing cut off {share} of the image: the hatched area was "
            "cropped before the model saw it; --image-size keep shows more where the model allows "
            "it",
        )

    def certificate_of(self, prompt: int) -> Certificate:
        """Return one prompt's certificate."""
        return self.certificates[prompt] if self.certificates else self.certificate

    def values(self, prompt: int) -> Float[np.ndarray, "row col"]:
        """Return one prompt's map as an array."""
        return np.asarray(self.maps[prompt].cpu(), np.float32)

    def unsure(self, prompt: int) -> Bool[np.ndarray, "row col"] | None:
        """Return where one map's sign is not established, at 95 %; None without errors."""
        if self.errors is None:
            return None
        error = np.asarray(self.errors[prompt].cpu(), np.float32)
        return np.abs(self.values(prompt)) < ESTABLISHED * error

    def score_text(self, prompt: int) -> str:
        """Return what was explained and its value in the untouched model: "cosine +0.2512".

        Where it is known, how to read it follows: "rank 3 of 1000 · z +4.1".
        """
        text = f"{self.record.score} {float(self.scores[prompt]):+.4f}"
        reading = str(self.readings[prompt]) if self.readings else ""
        return f"{text} · {reading}" if reading else text


@dataclass(frozen=True, kw_only=True)
class ImageWords:
    """The word values of one image; fields as in `WordExplanation`, without its image axis."""

    maps: list[Float[Tensor, " _token"]]
    words: list[tuple[Word, ...]]
    tokens: list[tuple[str, ...]]
    scores: Float[Tensor, " prompt"]
    explained_scores: Float[Tensor, " prompt"]
    certificate: Certificate
    record: Record

    @property
    def scale(self) -> float:
        """The largest |value| of any word of any prompt: the end of the scale that they share."""
        values = [abs(word.value) for words in self.words for word in words]
        return max(values, default=0.0)
