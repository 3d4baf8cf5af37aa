"""Text deletion: does the score fall when the words go that the map names?

formula     s(k) = cosine of the picture and the caption without its k highest tokens, k = 0 .. all;
            the area is the trapezoid rule over k / all, so that captions of any length compare
direction   lower is better; in the reversed order (lowest tokens first) higher is better
steps       one word (`words`) or one token (`masked keys`) at a time, to the very last
endpoints   the whole caption; a caption of no word: BOS and end-of-text alone
score space cosine, or whatever `score` returns
source      arXiv 2605.12952 reports text deletion on 1,000 COCO captions; no script was released,
            so what is removed is defined here, twice. `words`: the word is deleted and the shorter
            text is tokenised anew, as a reader would do it; what follows moves up. `masked keys`:
            no other token may attend to the token in any layer; nothing moves.
controls    random maps, and the reversed order
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from heatproof.metrics.perturbation import area, places, ranked
from heatproof.reading import Intervention
from heatproof.reading.interventions import masked_keys

Removal = Literal["words", "masked keys"]


def shortened(
    values: Float[Tensor, " token"],
    *,
    reverse: bool = False,
    ties: Int[Tensor, " token"] | None = None,
) -> Bool[Tensor, "point token"]:
    """Which tokens are left at each point, from all of them to none; see `perturbation.ranked`."""
    count = len(values)
    signed = -values if reverse else values
    order = ranked(signed[None], None if ties is None else ties[None])
    return places(order) >= torch.arange(count + 1).unsqueeze(1)


def without(words: Sequence[str], left: Bool[Tensor, " word"]) -> str:
    """The text of the words that are left, set with single spaces."""
    return " ".join(word for word, kept in zip(words, left.tolist(), strict=True) if kept)


def hidden_tokens(
    left: Sequence[Bool[Tensor, " _token"]], positions: Sequence[Sequence[int]], context: int
) -> Intervention:
    """Masked keys for a batch of captions: token n of caption b stands at `positions[b][n]`."""
    keep = torch.ones(len(left), context, dtype=torch.bool)
    for row, (kept, at) in enumerate(zip(left, positions, strict=True)):
        keep[row, torch.tensor(at)] = kept
    return masked_keys(keep)


def curve_area(values: Float[Tensor, " point"]) -> float:
    """The area under a caption's curve over the share of its tokens that are gone."""
    return float(area(values, [n / (len(values) - 1) for n in range(len(values))]))
