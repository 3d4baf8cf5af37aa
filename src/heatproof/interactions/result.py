"""What an interaction method returns, and what both of them take."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from heatproof.engine import inputs
from heatproof.engine.inputs import ImageInputs, Images, PromptInput
from heatproof.errors import InputError
from heatproof.models.model import Model
from heatproof.models.towers import Tokens


@dataclass(frozen=True)
class Interactions:
    """`values[image][prompt]` is (word token, row, col), signed: how a token and a patch together
    raise the cosine. `tokens[prompt]` names the tokens, `scores` are the pairs' cosines.

    `sums` is what all tokens and patches, those that stand for no word or patch included, add up
    to, `promised` what they should: exCLIP's come closer with more steps; FIxLIP's promise nothing.
    `passes` are the pictures and prompts that were encoded for a pair.
    """

    values: list[list[Float[Tensor, "_ row col"]]]
    tokens: list[tuple[str, ...]]
    scores: Float[Tensor, "image prompt"]
    sums: Float[Tensor, "image prompt"]
    promised: Float[Tensor, "image prompt"] | None
    passes: tuple[int, int]


def taken(model: Model, images: Images, prompts: PromptInput) -> tuple[ImageInputs, Tokens]:
    """ImageInputs and tokens of a two-tower model.

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
    return inputs.pictures(model, images, None), tokens


def repeated(tokens: Tokens, count: int) -> Tokens:
    """One prompt `count` times."""
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
    return [tuple(piece.text for piece in each) for each in tokens.pieces]
