"""Text deletion: does the score fall when the words go that the map names?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from heatproof.errors import InputError
from heatproof.metrics.base import Curve, MetricCard, Trial
from heatproof.metrics.ranking import places, ranked, shuffled
from heatproof.metrics.registry import register

POINTS = 21


def without(words: Sequence[str], left: Bool[Tensor, " word"]) -> str:
    """Return the text of the words that are left, set with single spaces."""
    return " ".join(word for word, stays in zip(words, left.tolist(), strict=True) if stays)


@register
@dataclass(frozen=True)
class TextDeletion(Curve):
    """Words of equal value go in an order that is drawn for each item."""

    card: ClassVar[MetricCard] = MetricCard(
        name="text-deletion",
        summary="does the score fall when the most heated words of the prompt are deleted?",
        formula="mean height (trapezoid rule over k / n from 0 to 1) of s(k), the score of the "
        "image with the prompt without its k most heated words, of n",
        better="lower",
        needs=("words", "word_score"),
        source="arXiv 2605.12952 reports text deletion on 1,000 COCO captions, no script was "
        "released; what a deletion is says the trial's `word_score` (see `text_deletion`)",
        chance="a random order's: about half of the way from the whole prompt's score to no word's",
        undefined="the prompt has no word, or a word's value is no number",
        invariant=("scale", "shift"),
        endpoints="the whole prompt; a prompt of no word",
        imputer="none: the trial deletes words and reads the text anew, or masks them",
        steps="one word at a time; the curve that is kept is read off at 21 shares",
        space="what the trial scores with",
        ties="words of equal heat go in an order that is drawn for each item",
    )

    def fractions(self, trial: Trial) -> Float[Tensor, " point"]:
        """Return the shares of words at which the curve is read off."""
        del trial
        return torch.linspace(0, 1, POINTS, dtype=torch.float64)

    def curves(self, trial: Trial) -> Float[Tensor, "item point"]:
        """Return the curve over words, linear between them, at every item's same shares."""
        scores, count = self._scores(trial)
        at = self.fractions(trial) * count[:, None]
        low = at.floor().long().clamp(max=scores.shape[1] - 1)
        high = (low + 1).minimum(count[:, None].long())
        return torch.lerp(scores.gather(1, low), scores.gather(1, high), at - low)

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the mean height by the trapezoid rule over words, exact for any number of them."""
        scores, count = self._scores(trial)
        inside = torch.arange(scores.shape[1] - 1) < count[:, None]
        heights = (scores[:, 1:] + scores[:, :-1]) / 2
        return heights.masked_fill(~inside, 0).sum(1) / count.masked_fill(count == 0, torch.nan)

    def _scores(self, trial: Trial) -> tuple[Float[Tensor, "item point"], Float[Tensor, " item"]]:
        """Return scores without the first k words, 0 behind the last one; and how many words."""
        assert trial.words is not None
        assert trial.word_score is not None
        words = trial.words.cpu().double()
        there = _before_nan(words)
        count = there.sum(1)
        ties = torch.arange(words.shape[1]).expand_as(words).clone()
        for n, (item, length) in enumerate(zip(trial.items, count.long().tolist(), strict=True)):
            # Over the words alone: the order must not depend on the longest prompt of the batch.
            ties[n, :length] = shuffled(item[None], length, trial.seed)[0]
        place = places(ranked(words.masked_fill(~there, -torch.inf), ties))
        item, gone = torch.cartesian_prod(
            torch.arange(len(words)), torch.arange(words.shape[1] + 1)
        ).unbind(1)
        real = gone <= count[item]
        item, gone = item[real], gone[real]
        found: list[Tensor] = []
        for rows, gone_now in zip(
            item.split(trial.batch_size), gone.split(trial.batch_size), strict=True
        ):
            keep = there[rows] & (place[rows] >= gone_now[:, None])
            found.append(trial.word_score(keep, rows).detach().cpu().double())
        scores = torch.zeros(len(words), words.shape[1] + 1, dtype=torch.float64)
        scores[item, gone] = torch.cat(found)
        wrong = words.isinf().any(1) | (count == 0)
        return scores.masked_fill(wrong[:, None], torch.nan), count.double()


def _before_nan(words: Float[Tensor, "item word"]) -> Bool[Tensor, "item word"]:
    """Return which places hold a word: those before the first NaN.

    Raises:
        InputError: a value follows a NaN, which stands for the end.
    """
    there = ~words.isnan()
    if (there[:, 1:] & ~there[:, :-1]).any():
        raise InputError("got a word's value behind a NaN, expected NaN behind the last word alone")
    return there
