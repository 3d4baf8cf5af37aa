"""The inputs of either tower in batches, with the function that scores their embeddings."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from heatproof import scores
from heatproof.engine import inputs
from heatproof.engine.inputs import ImageInputs, Prompts
from heatproof.errors import InputError, PromptError, ReadingError
from heatproof.methods.pass_context import GRADIENTS_AT_ONCE, Batch, Side
from heatproof.models.model import Model
from heatproof.models.towers import Readout, TextTower, Tokens
from heatproof.reading.attention_call import at_least_float32

Compare = Callable[[Tensor], Tensor]
POOLS = ("pool probe", "mean query")
# What is measured on one input (`memory`) is measured for this many targets at most.
PROBE_TARGETS = 4


class TowerBatches(ABC):
    """The inputs of one tower, in batches; `model` is at the size that they need."""

    side: ClassVar[Side]
    model: Model

    @abstractmethod
    def split(self, size: int, gradient_bytes: int = GRADIENTS_AT_ONCE) -> list[Batch]:
        """Return batches of at most `size` inputs (see `Batch` for `gradient_bytes`)."""

    @property
    @abstractmethod
    def input_size(self) -> tuple[int, ...]:
        """(height, width) of images, (context,) of prompts."""

    def probe(self) -> Batch:
        """Return the first input with few targets, whose gradients are taken one by one: what is
        run to measure memory."""
        first = self.split(1, gradient_bytes=1)[0]

        def compare_few(embedding: Tensor) -> Tensor:
            return first.compare(embedding)[:, :PROBE_TARGETS]

        return replace(first, targets=PROBE_TARGETS, width=0, closed_form=None, compare=compare_few)


class ImageBatches(TowerBatches):
    """Images, scored with prompts; behind the user's own prompts stand the null prompts."""

    side = "image"

    def __init__(
        self,
        shown: ImageInputs,
        prompts: Prompts,
        score: scores.Score,
        nulls: Prompts | None,
        before: int = 0,
    ) -> None:
        """before: how many images of the same run came before these."""
        self.model, self.score, self.prompts = shown.model, score, prompts
        self.pixels, self.photos = shown.pixels, shown.photos
        self.nulls, self.before = nulls, before
        self.labels = prompts.labels if nulls is None else (*prompts.labels, *nulls.labels)
        self.against = _against(shown.model, score)
        # Models that give each image a grid of its own have another layout for each size.
        self.layout = shown.model.image.layout(*shown.pixels.shape[-2:])
        self._empty: Tensor | None = None

    def compare(self, embedding: Float[Tensor, "item dim"]) -> Float[Tensor, "item target"]:
        """Return the scores of embeddings with the user's prompts, then with the null prompts."""
        self._check_width(embedding)
        return scores.score_pairs(
            self.model,
            self.score,
            embedding,
            self.prompts.embeddings,
            nulls=None if self.nulls is None else self.nulls.embeddings,
            against=self.against,
        )

    def untouched(self, items: Int[Tensor, " some"]) -> Float[Tensor, "some target"]:
        """Return the scores of some images by the model's own encoder, with nothing read."""
        with torch.no_grad():
            embedding = self.model.image.encode(self.pixels[items.to(self.pixels.device)])
            return self.compare(at_least_float32(embedding))

    def score_gradient(
        self, embedding: Float[Tensor, "item dim"]
    ) -> Float[Tensor, "item target dim"] | None:
        """Return dS/d(embedding) in closed form; None where the score has none."""
        self._check_width(embedding)
        texts = self.prompts.embeddings
        if self.nulls is not None:
            texts = torch.cat([texts, self.nulls.embeddings])
        return scores.score_gradient(self.model, self.score, embedding, texts, against=self.against)

    def empty(self, embedding: Float[Tensor, "item dim"]) -> Float[Tensor, " item"]:
        """Return the scores with the empty prompt, which is embedded when it is first needed."""
        if self.model.text is None:
            raise InputError(f"{self.model.spec} has no text tower and so no empty prompt")
        if self._empty is None:  # few methods ask, and it costs a pass of the text tower
            self._empty = inputs.embed(self.model, [""]).embeddings
        pairs = scores.pairs(
            self.model,
            embedding,
            self._empty,
            rivals=self.prompts.embeddings,
            against=self.against,
        )
        return self.score(pairs)[:, 0]

    def check_keys(self, keys: int) -> None:
        """Check that the last attention call has as many key tokens as the model's description.

        Raises:
            ReadingError: it has more or fewer.
        """
        layout = self.layout
        if layout.tokens != keys:
            others = len(layout.prefix) + len(layout.suffix)
            raise ReadingError(
                f"got {keys} key tokens for a {layout.rows} x {layout.cols} grid with {others} "
                "other token(s); the model's description is wrong"
            )

    @property
    def input_size(self) -> tuple[int, ...]:
        """Height and width."""
        return self.pixels.shape[-2:]

    def split(self, size: int, gradient_bytes: int = GRADIENTS_AT_ONCE) -> list[Batch]:
        """Return batches of at most `size` images."""
        return [
            self._batch(first, size, gradient_bytes) for first in range(0, len(self.pixels), size)
        ]

    def _batch(self, first: int, size: int, gradient_bytes: int) -> Batch:
        pixels = self.pixels[first : first + size]
        return replace(
            image_batch(self.model, pixels, self.compare),
            labels=self.labels,
            photos=self.photos[first : first + size],
            asked=len(self.prompts.labels),
            project=self.model.image.project,
            empty=self.empty,
            first=self.before + first,
            black=partial(_black, self.model, pixels),
            targets=len(self.labels),
            width=self.prompts.embeddings.shape[1],
            # Linear scores have a formula; the others are differentiated by autograd.
            closed_form=self.score_gradient,
            gradient_bytes=gradient_bytes,
        )

    def _check_width(self, embedding: Float[Tensor, "item dim"]) -> None:
        own, given = embedding.shape[1], self.prompts.embeddings.shape[1]
        if own != given:
            raise PromptError(f"got embeddings of width {given}, {self.model.spec} has {own}")


class CoordinateBatches(ImageBatches):
    """Images, whose scores are the coordinates of their own embeddings (`jacobian`)."""

    def __init__(self, shown: ImageInputs, score: scores.Score) -> None:
        super().__init__(shown, NO_PROMPTS, score, None)

    def compare(self, embedding: Float[Tensor, "item dim"]) -> Float[Tensor, "item dim"]:
        """Return the embeddings themselves."""
        return embedding

    def split(self, size: int, gradient_bytes: int = GRADIENTS_AT_ONCE) -> list[Batch]:
        """Return batches of at most `size` images."""
        return [batch.by_coordinate() for batch in super().split(size, gradient_bytes)]

    def probe(self) -> Batch:
        """Return the first image, with all coordinates: there are no fewer."""
        return self.split(1, gradient_bytes=1)[0]


NO_PROMPTS = Prompts((), torch.zeros(0, 0))


class TextBatches(TowerBatches):
    """Prompts, scored with images."""

    side = "text"

    def __init__(
        self,
        model: Model,
        shown: ImageInputs,
        prompts: Prompts,
        score: scores.Score,
        batch_size: int,
    ) -> None:
        """model: at its own input size. batch_size: how many images are encoded together."""
        assert model.text is not None
        assert prompts.tokens is not None
        self.model, self.tower, self.score = model, model.text, score
        self.prompts, self.tokens = prompts, prompts.tokens
        self.against = _against(model, score)
        with torch.no_grad():
            parts = [shown.model.image.encode(pixels) for pixels in shown.pixels.split(batch_size)]
        self.images = torch.cat(parts).to(prompts.embeddings.dtype)

    def compare(
        self, embedding: Float[Tensor, "item dim"], start: int
    ) -> Float[Tensor, "item image"]:
        """Return the scores of the prompts from number `start` on; all others are constants.

        A score that compares prompts (a margin) needs the others, too.
        """
        stop = start + len(embedding)
        texts = self.prompts.embeddings
        # In the graph are these prompts alone; the others stand there as they were embedded.
        live = torch.cat([texts[:start], embedding, texts[stop:]])
        pairs = scores.pairs(self.model, self.images, live, against=self.against)
        return self.score(pairs)[:, start:stop].T

    @property
    def input_size(self) -> tuple[int, ...]:
        """The length of the context."""
        return self.tokens.ids.shape[-1:]

    def split(self, size: int, gradient_bytes: int = GRADIENTS_AT_ONCE) -> list[Batch]:
        """Return batches of at most `size` prompts."""
        return [
            self._batch(start, size, gradient_bytes)
            for start in range(0, len(self.tokens.texts), size)
        ]

    def _batch(self, start: int, size: int, gradient_bytes: int) -> Batch:
        part = inputs.select(self.tokens, start, start + size)
        return replace(
            text_batch(self.tower, part, partial(self.compare, start=start)),
            asked=len(self.images),
            project=self.tower.project,
            first=start,
            words=_words(part),
            gradient_bytes=gradient_bytes,
        )


def image_batch(
    model: Model, pixels: Float[Tensor, "item 3 height width"], compare: Compare
) -> Batch:
    """Return images as one batch, scored by `compare`: (item, dim) to (item, target)."""
    tower = model.image
    # Models that give each image a grid of its own have another layout for each size.
    layout = tower.layout(*pixels.shape[-2:])
    start = len(layout.prefix)
    return Batch(
        side="image",
        encode=partial(tower.encode, pixels),
        compare=compare,
        readout=_rows(tower.readout, len(pixels)),
        content=slice(start, start + layout.rows * layout.cols),
        pooled=tower.readout.name in POOLS,
        grid=(layout.rows, layout.cols),
        pixels=pixels,
        encode_pixels=tower.encode,
    )


def text_batch(tower: TextTower, tokens: Tokens, compare: Compare) -> Batch:
    """Return prompts as one batch, scored by `compare`: (item, dim) to (item, target)."""
    mean = tower.readout.name == "mean of tokens"
    return Batch(
        side="text",
        encode=partial(tower.encode, tokens),
        compare=compare,
        readout=None if mean else tokens.readout,
        content=slice(0, tokens.ids.shape[1]),
        pooled=tower.readout.name in POOLS,
    )


def _black(model: Model, like: Tensor) -> Float[Tensor, "3 1 1"]:
    """Return what the model's own preprocessing makes of a black pixel."""
    black = model.image.preprocess.level(0)
    return black.view(3, 1, 1).to(like.device, like.dtype)


def _words(tokens: Tokens) -> Bool[Tensor, "prompt context"]:
    """Mark the positions that stand for words: all but BOS, end of text and padding."""
    words = torch.zeros(tokens.ids.shape, dtype=torch.bool)
    for prompt, pieces in enumerate(tokens.pieces):
        words[prompt, [piece.position for piece in pieces]] = True
    return words


def _rows(readout: Readout, items: int) -> Tensor | None:
    return None if readout.row is None else torch.full((items,), readout.row)


def _against(model: Model, score: scores.Score) -> Tensor | None:
    return inputs.prompts(model, score.against).embeddings if score.against else None
