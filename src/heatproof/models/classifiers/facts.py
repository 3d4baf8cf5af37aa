"""What has to be known of a classifier."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from heatproof.models.geometry import Preprocess
from heatproof.models.projection import EmbeddingHead
from heatproof.models.resizing import Size
from heatproof.models.towers import Readout, TokenLayout


@dataclass(frozen=True, kw_only=True)
class ClassifierFacts:
    """Hold the facts of a classifier, or of an image tower on its own (no `classes`).

    `transform` is the library's own for this model; None where the model does not name it.
    `resize` makes a shell fit another input size and `squash` the preprocessing for it; None where
    the model takes no other size.
    """

    family: str
    layout: Callable[[int, int], TokenLayout]
    readout: Readout
    native: Size
    patch: Size
    classes: tuple[str, ...]
    preprocess: Preprocess
    transform: Callable[[], Any] | None = None
    resize: Callable[[Any, Size], None] | None = None
    squash: Callable[[Size], Preprocess] | None = None
    project: EmbeddingHead | None = None
