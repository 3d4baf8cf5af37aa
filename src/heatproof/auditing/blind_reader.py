"""The blind model on the text side: the readout is kept from the words of its prompt.

The prompt's embedding then depends on the place of its readout alone: other words in the same
places give the same embedding, which is verified to the bit. Values of words that are not equal are
violated, as maps are in the check of images (`checks.blind_model`, whose rules hold here too).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from heatproof.auditing.base import Verdict
from heatproof.auditing.checks.blind_model import NOISE, ROUNDINGS
from heatproof.engine.api import explain_words
from heatproof.errors import ReadingError
from heatproof.evaluation.blindness import blind_reader
from heatproof.evaluation.variants import UNTOUCHED, Variant
from heatproof.methods import Method
from heatproof.models import Model, Tokens


@dataclass(frozen=True, kw_only=True)
class BlindWords:
    """What a method's values of words are, where the text readout sees no word.

    differ_by: how far embeddings of prompts of equal length are apart; 0 where the model is blind.
    spread, intact: largest less smallest value of the words, blind and as it is, largest of all.
    moved, maps: how many prompts' values are not constant, and of how many. agreement: of two
    draws of those. why_not: why the model could not be made blind.
    """

    differ_by: float = 0.0
    spread: float = 0.0
    intact: float = 0.0
    moved: int = 0
    maps: int = 0
    agreement: float = 0.0
    why_not: str = ""

    @property
    def verdict(self) -> Verdict:
        """The verdict by the rules of the check of images."""
        if self.why_not or self.differ_by or not self.intact:
            return "cannot tell"
        if self.moved:
            return "violated" if self.agreement >= NOISE else "cannot tell"
        return "holds"

    @property
    def plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "verdict": self.verdict,
            "embeddings differ by": self.differ_by,
            "spread": self.spread,
            "spread, intact": self.intact,
            "maps that are not constant": self.moved,
            "maps": self.maps,
            "agreement of two draws": self.agreement,
            "why not": self.why_not,
        }


def blind_words(
    method: Method,
    model: Model,
    pixels: Float[Tensor, "image 3 height width"],
    ids: Int[Tensor, "prompt context"],
    *,
    seed: int = 0,
) -> BlindWords:
    """Explain each prompt's words with the readout blind and as it is.

    Args:
        pixels: preprocessed images that the prompts are scored with.
        ids: prompts of three words or more.
    """
    assert model.text is not None
    spreads: list[Tensor] = []
    intact: list[Tensor] = []
    agreement: list[float] = []
    apart = 0.0
    try:
        for one in ids.split(1):
            tokens = model.text.from_ids(one)
            layers = model.attention_layers("text", one.shape[-1:])
            variant = blind_reader(model, tokens, layers)
            apart = max(apart, _difference(model, variant, tokens, one))
            before = _values(method, model, pixels, one, tokens, UNTOUCHED, seed)
            after = _values(method, model, pixels, one, tokens, variant, seed)
            again = _values(method, model, pixels, one, tokens, variant, seed + 1)
            spreads.append(_spread(after))
            intact.append(_spread(before))
            agreement.append(_correlation(after, again))
    except ReadingError as error:
        return BlindWords(why_not=str(error))
    spread, whole = torch.cat(spreads), torch.cat(intact)
    moved = spread > ROUNDINGS * torch.finfo(model.precision).eps * whole
    return BlindWords(
        differ_by=apart,
        spread=float(spread.max()),
        intact=float(whole.max()),
        moved=int(moved.sum()),
        maps=len(moved),
        agreement=min(agreement) if moved.any() else 0.0,
    )


def _words(tokens: Tokens) -> list[int]:
    """Return the positions of the words that the readout may see, itself left out."""
    row = int(tokens.readout[0])
    positions = [piece.position for piece in tokens.pieces[0]]
    # A readout in front of the words sees what follows; behind them, what precedes it.
    return [place for place in positions if (place > row if row == 0 else place < row)]


def _difference(model: Model, variant: Variant, tokens: Tokens, ids: Tensor) -> float:
    """Return how far the embedding moves where the words change places."""
    assert model.text is not None
    words = _words(tokens)
    moved = ids.clone()
    moved[0, words] = ids[0, words].roll(1)
    with variant.enter(), torch.no_grad():
        one, other = (model.text.encode(model.text.from_ids(each)) for each in (ids, moved))
    return float((one - other).abs().max())


def _values(
    method: Method,
    model: Model,
    pixels: Tensor,
    ids: Tensor,
    tokens: Tokens,
    variant: Variant,
    seed: int,
) -> Float[Tensor, "image word"]:
    with variant.enter():
        found = explain_words(model, pixels, ids, method=method, certify=False, seed=seed)
    order = {piece.position: n for n, piece in enumerate(tokens.pieces[0])}
    chosen = [order[place] for place in _words(tokens)]
    return torch.stack([row[0][chosen] for row in found.maps]).double()


def _spread(values: Float[Tensor, "image word"]) -> Float[Tensor, " image"]:
    return values.amax(1) - values.amin(1)


def _correlation(one: Tensor, other: Tensor) -> float:
    one, other = (side - side.mean(1, keepdim=True) for side in (one, other))
    scale = (one.norm(dim=1) * other.norm(dim=1)).clamp(min=1e-300)
    return float(((one * other).sum(1) / scale).min())
