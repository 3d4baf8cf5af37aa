"""Banzhaf values of tokens by true token removal, with a standard error for every value.

Values: Banzhaf, Rutgers Law Review 19 (1965), for machine learning arXiv 2205.15466; as the best
linear fit to all coalitions: Hammer & Holzman, 1992; paired samples: Covert & Lee, AISTATS 2021,
arXiv 2012.01536. Regression from a gradient map: `pair_regression`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from scipy.linalg import hadamard
from torch import Tensor

from heatproof.methods.base import (
    CONTRIBUTES,
    ExplainedTower,
    Factors,
    MethodCard,
    Plan,
    ReadPass,
    Side,
)
from heatproof.methods.pair_regression import Estimate, regress
from heatproof.methods.perturbing import (
    Coalitions,
    Perturbing,
    Remove,
    all_coalitions,
    placed,
    players,
)
from heatproof.methods.registry import create, register
from heatproof.reading import AttentionLayer, Intervention
from heatproof.registry import number


@register
@dataclass(frozen=True)
class Banzhaf(Perturbing):
    """phi_i = mean over the coalitions C of the other players of S(C with i) - S(C).

    samples: scores per image. Where there are no more coalitions than that, all of them are
        scored, and the values are exact.
    precision: go on, twice as many scores in each round, until no standard error is above this
        share of the map's largest value; None: `samples` scores, whatever the errors.
    most: scores per image at which it ends all the same.
    value: `banzhaf`, every coalition counts the same; `shapley`, every size of coalition does, and
        the values add up to S(x) - S(empty).
    gradient: the map that the regression starts from; `none`: from zero.
    """

    remove: Remove = "tokens"
    samples: int = number(64, least=8)
    precision: float | None = number(None, above=0)
    most: int = number(4096, least=8)
    value: Literal["banzhaf", "shapley"] = "banzhaf"
    gradient: Literal["libragrad", "none"] = "libragrad"

    card: ClassVar[MethodCard] = MethodCard(
        name="banzhaf",
        summary="what each token adds to the score, averaged over what else is left, with errors",
        source="Banzhaf values: arXiv 2205.15466; paired samples: arXiv 2012.01536; regression "
        "from a gradient map and its errors: heatproof",
        reads="scores of inputs with random halves of the tokens removed, and a gradient map",
        changes="the input",
        values="signed; how much a token raises the score, on average over random coalitions of "
        "the others; value=shapley: all key tokens add up to S(x) - S(x with all of them taken "
        "away)",
        signs=CONTRIBUTES,
        cost="64 forward passes per image by default (`samples`), each with half of the tokens "
        "dropped, and libragrad's map; any number of prompts",
        notes="Every value has a standard error (`Explanation.errors`). The gradient map only "
        "decides where few samples leave a value: its factor is fitted to the scores, more "
        "samples weigh it less, and in the limit it drops out. The errors state how far the "
        "values still are from that limit.",
    )

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        own = super().plan(layers, side)
        if self.gradient == "none":
            return own
        # The calls where tokens are removed, in the pass of the gradient map.
        return replace(create(self.gradient).plan(layers, side), paths=own.paths)

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        guesses = None if self.gradient == "none" else create(self.gradient).attribute(read)
        gains = (
            read.scores.detach().cpu().double() - self.empty_scores(read) if self._sums else None
        )
        games = [
            _Game(
                method=self,
                seed=read.seed,
                players=len(where),
                asked=read.batch.asked or read.targets,
                guess=None
                if guesses is None
                else guesses[item][:, where].detach().cpu().double().T,
                total=None if gains is None else gains[item],
            )
            for item, where in enumerate(players(read))
        ]
        while any(not game.done for game in games):
            keep = [game.coalitions() for game in games]
            for game, some, scores in zip(games, keep, self.scores_of(read, keep), strict=True):
                game.add(some, scores)
        read.errors = placed(read, [game.estimate.errors for game in games])
        return placed(read, [game.estimate.values for game in games])

    def total(self, read: ReadPass) -> Float[Tensor, "item target"] | None:
        if not self._sums:
            return None
        some = torch.tensor([[float(len(p) > 0)] for p in players(read)])
        return (read.scores.detach().cpu().double() - self.empty_scores(read)) * some

    def factors(self, side: Side) -> Factors:
        native = super().factors(side).native
        if self.gradient == "none":
            return Factors(native)
        return Factors(tuple(f"{what} (a regression from a gradient map)" for what in native))

    def implied(self, tower: ExplainedTower) -> dict[str, dict[str, Intervention]]:
        del tower  # what is scored is the model itself: only the first guess is of other gradients
        return {}

    @property
    def _sums(self) -> bool:
        """Whether the values add up to a total."""
        return self.value == "shapley"


class _Game:
    """One input as a game of its tokens: what was drawn and scored, and the estimate so far."""

    def __init__(
        self,
        *,
        method: Banzhaf,
        seed: int,
        players: int,
        asked: int,
        guess: Float[Tensor, "player target"] | None,
        total: Float[Tensor, " target"] | None,
    ) -> None:
        self.method, self.players, self.asked = method, players, asked
        self.guess, self.total = guess, total
        self.enumerates = players <= math.log2(method.samples)
        # The same coalitions for every input: a map does not depend on what else is explained.
        self.drawn = drawn_pairs(players, method.value, seed)
        self.signs = torch.zeros(0, players, dtype=torch.float64)
        self.differences: Tensor | None = None
        nothing = torch.zeros(players, 1, dtype=torch.float64)
        self.estimate = Estimate(nothing, nothing)

    @property
    def done(self) -> bool:
        """Whether nothing more is to be scored."""
        if self.differences is None:
            return False
        precision, drawn = self.method.precision, 2 * len(self.signs)
        if self.enumerates or precision is None or drawn >= self.method.most:
            return True
        values, errors = (
            part[:, : self.asked] for part in (self.estimate.values, self.estimate.errors)
        )
        return bool((errors.amax(0) <= precision * values.abs().amax(0)).all())

    def coalitions(self) -> Coalitions:
        """Draw the next round's coalitions: the first halves of the pairs, then the others."""
        if self.done:
            return torch.zeros(0, self.players, dtype=torch.bool)
        if self.enumerates:
            return all_coalitions(self.players)
        drawn = 2 * len(self.signs)
        count = min(max(drawn, self.method.samples), max(2, self.method.most - drawn))
        first = torch.stack(list(islice(self.drawn, count // 2)))
        return torch.cat([first, ~first])

    def add(self, keep: Coalitions, scores: Float[Tensor, "coalition target"]) -> None:
        """Take in the scores of a round, and estimate anew."""
        if not len(keep):
            return
        if self.enumerates:
            self.differences, self.estimate = scores, exact(keep, scores, self.method.value)
            return
        half = len(keep) // 2
        fresh = scores[:half] - scores[half:]
        old = self.differences
        self.signs = torch.cat([self.signs, 2.0 * keep[:half].double() - 1])
        self.differences = fresh if old is None else torch.cat([old, fresh])
        self.estimate = regress(self.signs, self.differences, self.guess, self.total)


def drawn_pairs(count: int, value: str, seed: int) -> Iterator[Bool[Tensor, " player"]]:
    """Draw the first coalition of each pair, without end.

    banzhaf: rows of Hadamard matrices, whose rows and columns are shuffled and whose columns change
    sign at random. Each row alone is a coalition drawn evenly from all; together the rows of a
    matrix are orthogonal, so that as many pairs as players tell all players apart (a randomised
    design of Plackett & Burman, 1946).
    shapley: a size by the Shapley kernel, then a coalition of that size.
    """
    generator = torch.Generator().manual_seed(seed)
    if value == "shapley":
        sizes = torch.arange(1, count, dtype=torch.float64)
        mass = 1 / (sizes * (count - sizes))
        while True:
            size = torch.multinomial(mass, 1, generator=generator) + 1
            yield torch.rand(count, generator=generator).argsort().argsort() < size
    order = 2 ** max(1, math.ceil(math.log2(count)))
    matrix = torch.from_numpy(hadamard(order)) > 0
    while True:
        rows, columns = (torch.randperm(order, generator=generator) for _ in range(2))
        flipped = torch.rand(count, generator=generator) < 0.5
        yield from matrix[rows][:, columns[:count]] ^ flipped


def exact(keep: Coalitions, scores: Float[Tensor, "coalition target"], value: str) -> Estimate:
    """Compute the values from the scores of all coalitions."""
    count, signs = keep.shape[1], 2 * keep.double() - 1
    weight = torch.full((len(keep), max(count, 1)), 2.0 ** (1 - count), dtype=torch.float64)
    if value == "shapley":
        others = keep.sum(1, keepdim=True) - keep.long()  # the coalition's size without the player
        sizes = [1 / (count * math.comb(count - 1, k)) for k in range(count)]
        weight = torch.tensor([*sizes, 0.0], dtype=torch.float64)[others]
    values = (signs * weight[:, :count]).T @ scores
    return Estimate(values, torch.zeros_like(values))
