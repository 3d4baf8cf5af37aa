"""Trials whose truth is known: the model is a sum of what each patch adds to the score.

score(x) = sum over patches of w_i * (mean of patch i), with the item's own w. What patch i adds is
w_i * mean_i exactly, so that the perfect map is known, and what every hidden set of patches does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from heatproof.metrics import Trial

ROWS, COLS, PATCH = 4, 5, 8
CELLS, SIZE = ROWS * COLS, (ROWS * PATCH, COLS * PATCH)
BLACK, WHITE = -0.25, 1.25
LEVELS = torch.tensor([[BLACK] * 3, [WHITE] * 3])
NULLS = ("empty", "gibberish", "unrelated")


def patch_means(pixels: Tensor) -> Tensor:
    return F.avg_pool2d(pixels.mean(1, keepdim=True), PATCH).flatten(1)


class SumOfPatches:
    """The planted model, of three blocks whose product is w; each can be made random."""

    blocks = 3
    steps = 3

    def __init__(self, weights: Tensor, pixels: Tensor) -> None:
        self.pixels = pixels
        ones = torch.ones(CELLS, dtype=torch.float64)
        self.factors: list[Tensor] = [ones, ones.clone(), weights.double()]
        generator = torch.Generator().manual_seed(11)
        self.random = torch.randn(3, CELLS, generator=generator, dtype=torch.float64)
        self.nulls = dict(
            zip(NULLS, torch.randn(3, CELLS, generator=generator).double(), strict=True)
        )
        self.most = 0

    @property
    def weights(self) -> Tensor:
        return self.factors[0] * self.factors[1] * self.factors[2]

    def score(self, pixels: Tensor, item: Tensor) -> Tensor:
        self.most = max(self.most, len(pixels))
        return (self.weights[item] * patch_means(pixels).double()).sum(1)

    def hit(self, pixels: Tensor, item: Tensor) -> Tensor:
        self.most = max(self.most, len(pixels))
        every = patch_means(pixels).double() @ self.weights.T
        return (every.argmax(1) == item).double()

    def tokens(self, keep: Tensor, item: Tensor) -> Tensor:
        self.most = max(self.most, len(keep))
        return (self.weights[item] * patch_means(self.pixels)[item].double() * keep).sum(1)

    def explain(
        self,
        item: Tensor,
        pixels: Tensor | None = None,
        *,
        prompt: str | None = None,
        seed: int | None = None,
    ) -> Tensor:
        del seed
        means = patch_means(self.pixels[item] if pixels is None else pixels).double()
        weights = self.weights[item] if prompt is None else self.nulls[prompt]
        return (weights * means).unflatten(1, (ROWS, COLS))

    @contextmanager
    def __call__(self, order: str, n: int) -> Iterator[None]:
        before = list(self.factors)
        for block in range(n) if order == "cascade" else (n - 1,):
            self.factors[block] = self.random[block].expand_as(before[block])
        try:
            yield
        finally:
            self.factors = before


class Words:
    """A prompt's score is the sum of its words' weights, and one more word's worth for none."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(self, keep: Tensor, item: Tensor) -> Tensor:
        return (self.weights[item].nan_to_num() * keep).sum(1)


def blind(pixels: Tensor) -> Tensor:
    """A map that looks at neither model nor prompt, and jumps with the smallest change."""
    return torch.sin(1e4 * patch_means(pixels).double()).unflatten(1, (ROWS, COLS))


def planted(items: int = 5, seed: int = 0, **changed: Any) -> Trial:
    """A trial whose maps are perfect. Each picture is bright on its object, 2 x 2 patches, which
    its prompt's weights are for; all other patches speak a little against it."""
    generator = torch.Generator().manual_seed(seed)
    corners = [(row, col) for row in range(ROWS - 1) for col in range(COLS - 1)]
    objects = torch.zeros(items, 3, ROWS, COLS)
    for item in range(items):
        for k in range(3):
            row, col = corners[(item + 4 * k) % len(corners)]
            objects[item, k, row : row + 2, col : col + 2] = 1
    mask = objects[:, 0]
    rough = torch.rand(items, 2, CELLS, generator=generator, dtype=torch.float64)
    weights = torch.where(mask.flatten(1) > 0, 1 + 0.2 * rough[:, 0], -0.3 - 0.1 * rough[:, 0])
    cells = torch.where(mask.flatten(1) > 0, 0.9, 0.5) + 0.05 * rough[:, 1]
    wide = F.interpolate(cells.view(items, 1, ROWS, COLS), SIZE, mode="nearest")
    grain = torch.rand(items, 3, *SIZE, generator=generator, dtype=torch.float64)
    pixels = wide + 0.1 * (grain - 0.5)
    model = SumOfPatches(weights, pixels)
    words = torch.rand(items, 6, generator=generator, dtype=torch.float64) - 0.3
    for item in range(items):
        words[item, 2 + item % 4 :] = torch.nan
    inside = F.interpolate(mask[:, None], SIZE, mode="nearest")[:, 0] > 0
    judged = torch.rand(items, *SIZE, generator=generator) < 0.1
    perfect = model.explain(torch.arange(items))
    trial = Trial(
        maps=perfect,
        pixels=pixels,
        mask=mask,
        objects=objects,
        named=torch.tensor([[True, False, False]]).repeat(items, 1),
        points=torch.where(inside, 1, -1) * judged,
        score=model.score,
        hit=model.hit,
        tokens=model.tokens,
        levels=LEVELS,
        words=words,
        word_score=Words(words.clone()),
        explain=model.explain,
        models=model,
        total=perfect.sum((1, 2)),
    )
    return replace(trial, **changed)


def worst(trial: Trial) -> Trial:
    """The same with reversed maps."""
    assert trial.words is not None
    return replace(trial, maps=-trial.maps, words=-trial.words)


def blinded(trial: Trial) -> Trial:
    """The same with maps that follow neither model nor prompt."""
    pixels = trial.pixels

    def explain(
        item: Tensor,
        pictures: Tensor | None = None,
        *,
        prompt: str | None = None,
        seed: int | None = None,
    ) -> Tensor:
        del prompt, seed
        return blind(pixels[item] if pictures is None else pictures)

    return replace(trial, maps=blind(pixels), explain=explain)


def mapped(trial: Trial, change: Any) -> Trial:
    """Every map, the words' too, through a function; what is explained again likewise."""
    explain = trial.explain
    assert explain is not None
    assert trial.words is not None

    def again(*given: Any, **named: Any) -> Tensor:
        return change(explain(*given, **named))

    return replace(trial, maps=change(trial.maps), words=change(trial.words), explain=again)
