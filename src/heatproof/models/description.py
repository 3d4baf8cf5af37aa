"""A model in facts that a reader can check: grid, readout, preprocessing, sizes, weights.

Where a map seems to lie in the wrong place, one of these facts is wrong, or the photo was cropped.
"""

from dataclasses import dataclass

from heatproof.models.geometry import PhotoView, Preprocess
from heatproof.models.towers import Readout, TokenLayout
from heatproof.reading import AttentionLayer

IMAGE_READOUTS = {
    "class token": "the class token",
    "pool probe": "the query of an attention pool",
    "mean query": "the query of an attention pool, which is the mean of the patches",
    "mean of tokens": "the mean over the query rows of all patches",
}
TEXT_READOUTS = {
    "class token": "the class token",
    "end of text": "the end-of-text token of each prompt",
    "last token": "the last position, padding or not",
    "mean of tokens": "the mean over the tokens of a prompt",
}
WEIGHTS = {
    "loaded": "loaded from a file",
    "random": "random: maps say nothing about a trained model",
    "unknown": "came with the module: whether they are trained is unknown",
}


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """Hold what `Model.describe` found. `str()` of it is one line per fact.

    `layout` is that of the keys of the last attention call; `image_layers` and `text_layers` are
    the attention calls that the model really made. `mean` and `std` are measured on a black and a
    white image. `view` is what the model sees of the photo that was asked about.
    """

    spec: str
    family: str
    weights: str
    dtype: str
    precision: str
    size: tuple[int, int]
    layout: TokenLayout
    readout: Readout
    image_layers: tuple[AttentionLayer, ...]
    preprocess: Preprocess
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resizable: bool
    score: str
    context: int | None = None
    text_readout: Readout | None = None
    text_layers: tuple[AttentionLayer, ...] = ()
    classes: tuple[str, ...] = ()
    view: PhotoView | None = None

    def __str__(self) -> str:
        lines = {
            "model": f"{self.spec} (family {self.family})",
            "weights": WEIGHTS[self.weights],
            "dtype": self._dtype(),
            "input": self._input(),
            "resize": self._resize(),
            "normalise": f"mean {_numbers(self.mean)}, std {_numbers(self.std)} of pixels in 0..1",
            "tokens": self._tokens(),
            "readout": _readout(self.readout, IMAGE_READOUTS),
            "image": _layers(self.image_layers),
            "text": self._text(),
            "score": self.score,
            "photo": self._photo(),
        }
        width = max(map(len, lines)) + 1
        return "\n".join(f"{name + ':':<{width}} {text}" for name, text in lines.items() if text)

    def _dtype(self) -> str:
        # In mixed precision the coarsest part decides how exact scores are.
        if self.dtype == self.precision:
            return self.dtype
        return f"{self.dtype}; the coarsest part computes in {self.precision}"

    def _input(self) -> str:
        other = "other sizes too" if self.resizable else "no other size"
        return f"{self.size[0]} x {self.size[1]} pixels (height x width); {other}"

    def _resize(self) -> str:
        process = self.preprocess
        size = f"{process.height} x {process.width}"
        if process.flexible:
            return f"each photo keeps its aspect ratio; as many pixels as {size}, nothing cropped"
        rules = {
            "shortest": f"shortest side to {process.resize_to} pixels, then the central {size}",
            "squash": f"both sides to {size}: the aspect ratio changes, nothing is cropped",
            "longest": f"longest side to fit, then padded to {size}",
        }
        rows, cols = process.unpatched
        lost = f"; no patch covers the last {rows} rows and {cols} columns" if rows or cols else ""
        return rules[process.resize] + lost

    def _tokens(self) -> str:
        layout, (high, wide) = self.layout, self.patch
        parts = [
            _named(layout.prefix),
            f"{layout.rows} x {layout.cols} patches (rows x columns) of {high:g} x {wide:g} pixels",
            _named(layout.suffix),
        ]
        return f"{layout.tokens} = {' + '.join(filter(None, parts))}"

    @property
    def patch(self) -> tuple[float, float]:
        """Return height and width of a patch in pixels of the model's input."""
        rows, cols = self.preprocess.unpatched
        return (
            (self.size[0] - rows) / self.layout.rows,
            (self.size[1] - cols) / self.layout.cols,
        )

    def _text(self) -> str:
        if self.text_readout is None:
            return f"none; prompts are {len(self.classes)} classes" if self.classes else "none"
        readout = _readout(self.text_readout, TEXT_READOUTS)
        return f"{_layers(self.text_layers)}; context {self.context} tokens; readout: {readout}"

    def _photo(self) -> str:
        view = self.view
        if view is None:
            return ""
        # In pixels of the photo itself, so that a reader can look there.
        left, top, right, bottom = (round(side) for side in view.seen)
        cell = view.cell(0, 0, self.layout.rows, self.layout.cols)
        high, wide = cell[3] - cell[1], cell[2] - cell[0]
        return (
            f"{view.height} x {view.width} pixels (height x width); the model sees rows {top} to "
            f"{bottom} and columns {left} to {right}; {view.unseen:.1%} is never seen; a patch is "
            f"{high:.1f} x {wide:.1f} of its pixels"
        )


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _readout(readout: Readout, sentences: dict[str, str]) -> str:
    row = "" if readout.row is None else f": query row {readout.row} of the last attention call"
    return sentences[readout.name] + row


def _named(tokens: tuple[str, ...]) -> str:
    if not tokens:
        return ""
    names = ", ".join(tokens) if len(tokens) <= 3 else f"{tokens[0]}, ..., {tokens[-1]}"
    return f"{len(tokens)} ({names})"


def _layers(layers: tuple[AttentionLayer, ...]) -> str:
    heads = sorted({layer.heads for layer in layers})
    count = f"{heads[0]}" if len(heads) == 1 else f"{heads[0]} to {heads[-1]}"
    last = layers[-1]
    return (
        f"{len(layers)} attention calls, heads: {count}; the last, {last.path}, has queries: "
        f"{last.queries}, keys: {last.keys}"
    )
