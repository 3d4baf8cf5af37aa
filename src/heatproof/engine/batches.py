"""The two towers as jobs: what each is run for, in chunks."""

from functools import partial

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from heatproof import scores
from heatproof.engine import inputs
from heatproof.engine.inputs import ImageInputs, Prompts
from heatproof.errors import InputError, PromptError
from heatproof.methods.pass_context import Batch
from heatproof.models.model import Model
from heatproof.models.towers import Readout, Tokens

POOLS = ("pool probe", "mean query")


class ImageBatches:
    """ImageInputs against prompts, null prompts behind them: what the image tower is run for.

    before: how many pictures of the same question came before these.
    """

    def __init__(
        self,
        shown: ImageInputs,
        asked: Prompts,
        score: scores.Score,
        nulls: Prompts | None,
        before: int = 0,
    ) -> None:
        self.model, self.score, self.asked = shown.model, score, asked
        self.pixels = inputs.ordinary(shown.pixels)
        self.nulls, self.before = nulls, before
        self.nothing: Tensor | None = None
        self.photos = shown.photos
        self.labels = asked.labels if nulls is None else (*asked.labels, *nulls.labels)
        self.against = _against(shown.model, score)
        self.layout = shown.model.image.layout(*shown.pixels.shape[-2:])

    def compare(self, embedding: Tensor) -> Tensor:
        model, texts = self.model, self.asked.embeddings
        self._check_width(embedding)
        found = self.score(scores.pairs(model, embedding, texts, against=self.against))
        if self.nulls is None:
            return found
        nulls = scores.pairs(
            model, embedding, self.nulls.embeddings, rivals=texts, against=self.against
        )
        return torch.cat([found, self.score(nulls)], dim=1)

    def score_gradient(
        self, embedding: Float[Tensor, "item dim"]
    ) -> Float[Tensor, "item target dim"] | None:
        """dS/d(embedding) in closed form; None where the score has none."""
        self._check_width(embedding)
        texts = self.asked.embeddings
        if self.nulls is not None:
            texts = torch.cat([texts, self.nulls.embeddings])
        return scores.score_gradient(self.model, self.score, embedding, texts, against=self.against)

    def _check_width(self, embedding: Float[Tensor, "item dim"]) -> None:
        own, given = embedding.shape[1], self.asked.embeddings.shape[1]
        if own != given:
            raise PromptError(f"got embeddings of width {given}, {self.model.spec} has {own}")

    def empty(self, embedding: Float[Tensor, "item dim"]) -> Float[Tensor, " item"]:
        """Scores against the empty prompt, which is embedded when first asked for."""
        if self.model.text is None:
            raise InputError(f"{self.model.spec} has no text tower and so no empty prompt")
        if self.nothing is None:
            self.nothing = inputs.embed(self.model, [""]).embeddings
        found = scores.pairs(
            self.model,
            embedding,
            self.nothing,
            rivals=self.asked.embeddings,
            against=self.against,
        )
        return self.score(found)[:, 0]

    def chunks(self, size: int) -> list[Batch]:
        tower, layout = self.model.image, self.layout
        start = len(layout.prefix)
        content = slice(start, start + layout.rows * layout.cols)
        made: list[Batch] = []
        for first in range(0, len(self.pixels), size):
            pixels = self.pixels[first : first + size]
            made.append(
                Batch(
                    side="image",
                    encode=partial(tower.encode, pixels),
                    compare=self.compare,
                    readout=_rows(tower.readout, len(pixels)),
                    content=content,
                    pooled=tower.readout.name in POOLS,
                    grid=(layout.rows, layout.cols),
                    pixels=pixels,
                    encode_pixels=tower.encode,
                    labels=self.labels,
                    photos=self.photos[first : first + size],
                    asked=len(self.asked.labels),
                    project=tower.project,
                    empty=self.empty,
                    first=self.before + first,
                    black=partial(_black, self.model, pixels),
                    targets=len(self.labels),
                    width=self.asked.embeddings.shape[1],
                    closed_form=self.score_gradient,
                )
            )
        return made


class TextBatches:
    """Prompts against pictures: what the text tower is run for."""

    def __init__(
        self, shown: ImageInputs, asked: Prompts, score: scores.Score, batch_size: int
    ) -> None:
        assert shown.model.text is not None
        assert asked.tokens is not None
        self.model, self.score, self.asked, self.tokens = shown.model, score, asked, asked.tokens
        self.tower = shown.model.text
        self.against = _against(shown.model, score)
        with torch.no_grad():
            parts = [shown.model.image.encode(pixels) for pixels in shown.pixels.split(batch_size)]
        self.images = torch.cat(parts).to(asked.embeddings.dtype)

    def compare(self, embedding: Tensor, start: int) -> Tensor:
        """(prompt, image): these prompts are live, all others are constants."""
        stop = start + len(embedding)
        texts = self.asked.embeddings
        live = torch.cat([texts[:start], embedding, texts[stop:]])
        found = scores.pairs(self.model, self.images, live, against=self.against)
        return self.score(found)[:, start:stop].T

    def chunks(self, size: int) -> list[Batch]:
        made: list[Batch] = []
        context = self.tokens.ids.shape[1]
        for start in range(0, len(self.tokens.texts), size):
            part = inputs.select(self.tokens, start, start + size)
            made.append(
                Batch(
                    side="text",
                    encode=partial(self.tower.encode, part),
                    compare=partial(self.compare, start=start),
                    readout=None if self.tower.readout.name == "mean of tokens" else part.readout,
                    content=slice(0, context),
                    pooled=self.tower.readout.name in POOLS,
                    asked=len(self.images),
                    project=self.tower.project,
                    first=start,
                    words=_words(part),
                )
            )
        return made


def _black(model: Model, like: Tensor) -> Float[Tensor, "3 1 1"]:
    """What the model's own preprocessing makes of a black pixel."""
    size = model.image.preprocess
    picture = size(Image.new("RGB", (size.width, size.height)))
    row, col = size.height // 2, size.width // 2
    return picture[:, row : row + 1, col : col + 1].to(like.device, like.dtype)


def _words(tokens: Tokens) -> Bool[Tensor, "prompt context"]:
    """Which positions stand for words: all but BOS, end of text and padding."""
    words = torch.zeros(tokens.ids.shape, dtype=torch.bool)
    for prompt, pieces in enumerate(tokens.pieces):
        words[prompt, [piece.position for piece in pieces]] = True
    return words


def _rows(readout: Readout, items: int) -> Tensor | None:
    return None if readout.row is None else torch.full((items,), readout.row)


def _against(model: Model, score: scores.Score) -> Tensor | None:
    if not score.against:
        return None
    return inputs.prompts(model, score.against).embeddings
