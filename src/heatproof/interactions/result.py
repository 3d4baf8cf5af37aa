"""The result of an interaction method, and the preparation that both methods share."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from heatproof.engine import inputs
from heatproof.engine.inputs import ImageInputs, Images, PromptInput
from heatproof.errors import InputError
from heatproof.models.model import Model
from heatproof.models.towers import Tokens


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Second-order attributions.

    `values[image][prompt]` is (word token, row, col), signed: how a token and a patch together
    raise the cosine. `tokens[prompt]` names the tokens, `scores` are the pairs' cosines.

    `sums` are over all tokens and patches, those that stand for no word or patch included.
    `promised` is what they should be: exCLIP's come closer with more steps, FIxLIP's promise
    nothing.
    `passes` are the numbers of images and of prompts that were encoded for a pair.
    """

    values: list[list[Float[Tensor, "_ row col"]]]
    tokens: list[tuple[str, ...]]
    scores: Float[Tensor, "image prompt"]
    sums: Float[Tensor, "image prompt"]
    promised: Float[Tensor, "image prompt"] | None
    passes: tuple[int, int]


def prepare(model: Model, images: Images, prompts: PromptInput) -> tuple[ImageInputs, Tokens]:
    """Return the images and the tokens of a two-tower model.

    Raises:
        InputError: a classifier, or prompts that are embeddings.
    """
    if model.text is None:
        raise InputError(
            f"{model.spec} has no text tower: there are no words to interact with regions"
        )
    tokens = inputs.prompts(model, prompts).tokens
    if tokens is None:
        raise InputError("embeddings have no words; pass the prompts as texts or token ids")
    return inputs.images(model, images, None), tokens


def repeated(tokens: Tokens, count: int) -> Tokens:
    """Return one prompt `count` times."""
    return replace(
        tokens,
        ids=tokens.ids.expand(count, -1),
        readout=tokens.readout.expand(count),
        texts=tokens.texts * count,
        pieces=tokens.pieces * count,
        cut=tokens.cut * count,
        mask=None if tokens.mask is None else tokens.mask.expand(count, -1),
    )


def names(tokens: Tokens) -> list[tuple[str, ...]]:
    """Return the texts of each prompt's tokens."""
    return [tuple(piece.text for piece in pieces) for pieces in tokens.pieces]
