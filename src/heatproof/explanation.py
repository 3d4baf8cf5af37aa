"""Results: signed maps or word values, with scores, geometry and certificate."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from heatproof import checking
from heatproof.certificate import Certificate, Certificates
from heatproof.display import GREY, STRENGTH, Display
from heatproof.errors import InputError, UnknownName
from heatproof.image_maps import ImageMaps, ImageWords, Reading, Record, Word
from heatproof.images import Photo
from heatproof.models.geometry import PhotoView
from heatproof.pages import bundle
from heatproof.plots.contact_sheet import Panel
from heatproof.plots.overlay import overlay

BLANK = "#b0b0b0"
BLANK_PATCH = 32  # pixels of a patch on the blank image that stands in for a tensor


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Signed, unnormalised maps on the patch grid.

    Attributes:
        scores: the untouched model's.
        explained_scores: those of the pass that was explained: the same but for rounding, unless
            the method changes the model.
        photos: the images as they came in; empty where preprocessed tensors did.
        views: what of each photo the model sees.
        certificate: the worst of all images and prompts, check by check and light by light.
        certificates: one for each image and prompt, made when it is asked for (`certificate_of`).
        errors: the maps' standard errors; None where the method has none.
        readings: how each score is to be read, by image and prompt (`engine.readings`).
    """

    maps: Float[Tensor, "image prompt row col"]
    scores: Float[Tensor, "image prompt"]
    explained_scores: Float[Tensor, "image prompt"]
    certificate: Certificate
    record: Record
    photos: tuple[Photo, ...] = ()
    views: tuple[PhotoView, ...] = ()
    certificates: Certificates | None = None
    errors: Float[Tensor, "image prompt row col"] | None = None
    readings: tuple[tuple[Reading, ...], ...] = ()

    def overlay(
        self,
        image: int = 0,
        prompt: int | str = 0,
        *,
        background: str = "gray",
        alpha: float = STRENGTH,
    ) -> Image.Image:
        """Draw the map on the original photo, on the scale shared by all prompts of the image.

        Args:
            background: the photo in "gray", so that all colour is the map's, or in "color".
            alpha: opacity of the map at the end of its scale.
        """
        image = checking.index("image", image, len(self.maps))
        return overlay(self.for_image(image, Display(background, alpha)), self.index(prompt))

    def certificate_of(self, image: int = 0, prompt: int | str = 0) -> Certificate:
        """Return the certificate of one image and one prompt; `.figures` has it as a flat row.

        Raises:
            UnknownName: no prompt reads so; InputError: no image or prompt has this number.
        """
        image = checking.index("image", image, len(self.maps))
        number = self.index(prompt)
        return self.certificate if self.certificates is None else self.certificates[image, number]

    def index(self, prompt: int | str) -> int:
        """Return the number of a prompt, from its text or its number.

        Raises:
            UnknownName: no prompt reads so; InputError: no prompt has this number.
        """
        known = self.record.prompts
        if isinstance(prompt, str):
            if prompt not in known:
                raise UnknownName("prompt", prompt, known)
            return known.index(prompt)
        return checking.index("prompt", prompt, len(known))

    def save(
        self,
        folder: str | Path,
        *,
        words: "WordExplanation | None" = None,
        controls: Sequence[Panel] = (),
        background: str = "gray",
        alpha: float = STRENGTH,
    ) -> Path:
        """Write all files into `folder`, and return the path of the report.

        Several images get a sub-folder each. `words` are shown on the same page. `controls` are
        maps that were not asked for, drawn beside those of a single image on their scale.
        `background` and `alpha` are those of `overlay`.

        Raises:
            InputError: the folder cannot be written to; then nothing is left half written. Or
                `words` or `controls` are something else.
        """
        if words is not None and not isinstance(words, WordExplanation):  # pyright: ignore
            raise InputError(f"got words={checking.shown(words)}, expected those of explain_words")
        panels = checking.several("controls", controls, "a list of panels")
        if not all(isinstance(panel, Panel) for panel in panels):
            raise InputError(f"got controls={checking.shown(controls)}, expected a list of panels")
        numbers, display = range(len(self.maps)), Display(background, alpha)
        return bundle.save(
            [self.for_image(number, display) for number in numbers],
            None if words is None else [words.for_image(number) for number in numbers],
            checking.path("folder", folder),
            panels,
        )

    def for_image(self, image: int = 0, display: Display = GREY) -> ImageMaps:
        """Return one image's part: what plots and pages take.

        Where a tensor came in, a blank image that was seen whole stands for its photo.
        """
        if self.photos:
            photo, view = self.photos[image], self.views[image]
        else:
            rows, cols = (BLANK_PATCH * side for side in self.maps.shape[-2:])
            photo = Photo(Image.new("RGB", (cols, rows), BLANK), f"tensor {image}")
            view = PhotoView(
                width=cols, height=rows, left=0.0, top=0.0, right=float(cols), bottom=float(rows)
            )
        return ImageMaps(
            photo=photo,
            view=view,
            maps=self.maps[image],
            scores=self.scores[image],
            explained_scores=self.explained_scores[image],
            certificate=_for_image(self, image),
            record=self.record,
            certificates=self.certificates.rows(image) if self.certificates else (),
            errors=None if self.errors is None else self.errors[image],
            readings=self.readings[image] if self.readings else (),
            display=display,
        )


@dataclass(frozen=True, kw_only=True)
class WordExplanation:
    """Signed values of a prompt's words.

    Attributes:
        maps: `maps[image][prompt]` holds one value per token.
        words: the same, summed per word.
        scores, explained_scores, photos, certificate, certificates: as in `Explanation`.
        errors: standard errors of `maps`; None where the method has none.
    """

    maps: list[list[Float[Tensor, " _token"]]]
    words: list[list[tuple[Word, ...]]]
    tokens: list[tuple[str, ...]]
    scores: Float[Tensor, "image prompt"]
    explained_scores: Float[Tensor, "image prompt"]
    certificate: Certificate
    record: Record
    photos: tuple[Photo, ...] = field(default=())
    certificates: Certificates | None = None
    errors: list[list[Float[Tensor, " _token"]]] | None = None

    def for_image(self, image: int = 0) -> ImageWords:
        """Return one image's part: what plots and pages take."""
        return ImageWords(
            maps=self.maps[image],
            words=self.words[image],
            tokens=self.tokens,
            scores=self.scores[image],
            explained_scores=self.explained_scores[image],
            certificate=_for_image(self, image),
            record=self.record,
        )


def _for_image(explanation: Explanation | WordExplanation, image: int) -> Certificate:
    certificates = explanation.certificates
    return explanation.certificate if certificates is None else certificates.for_image(image)
